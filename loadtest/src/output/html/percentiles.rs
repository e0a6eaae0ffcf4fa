//! Latency by percentile, the way `HdrHistogram` plots it: each step to the right is ten times rarer.

use super::super::report::Report;
use super::super::units::time;
use super::chart::{self, Axis, BOTTOM, HEIGHT, LEFT, RIGHT, Scale, TOP, WIDTH, add};
use crate::interval::IntervalHistogram;
use crate::series::Encoded;

/// The axis ends at one in this many echoes.
const MAX_ONE_IN: f64 = 1e7;

/// Points of a curve per factor of ten.
const POINTS_PER_DECADE: f64 = 40.0;

/// The plot with a table beside it; `None` without echoes.
pub(super) fn section(report: &Report) -> Option<String> {
    let measured = report.measured.as_ref()?;
    let latency = measured.latency_histogram.as_ref().and_then(Encoded::decode)?;
    let lag = measured.lag_histogram.as_ref().and_then(Encoded::decode);
    let curves = [Some(("latency", 0, &latency)), lag.as_ref().map(|lag| ("lag of ringload itself", 1, lag))];
    let curves: Vec<_> = curves.into_iter().flatten().collect();
    let mut legend = String::new();
    for (name, color, _) in &curves {
        add(&mut legend, format_args!("<span class=\"key c{color}\">{name}</span>"));
    }
    Some(format!(
        "<section><h2>Latency by percentile</h2>\n<div class=\"charts\"><figure><figcaption><b>Latency</b> \
         <span class=\"unit\">log scale</span><span class=\"legend\">{legend}</span></figcaption>\n{}\n</figure>\n{}\
         </div></section>",
        plot(&curves),
        table(&latency, lag.as_ref())
    ))
}

fn plot(curves: &[(&str, usize, &IntervalHistogram)]) -> String {
    let one_in = curves.iter().map(|(.., it)| it.len() as f64).fold(10.0, f64::max).min(MAX_ONE_IN);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let x = Scale::log(1.0, one_in, LEFT, right);
    let min = curves.iter().map(|(.., it)| at(it, 0.0)).fold(f64::INFINITY, f64::min);
    let max = curves.iter().map(|(.., it)| at(it, 1.0)).fold(0.0, f64::max);
    // Latencies below a microsecond would take half of the height and show nothing.
    let y = Scale::log(min.max(1.0), max, bottom, TOP);
    let mut svg = chart::open("Latency by percentile", "latency over the percentile, each step ten times rarer");
    chart::draw_y_axis(&mut svg, y, "latency", Axis::LogTime.label());
    let decades = one_in.log10().ceil() as i32;
    for decade in 0..=decades {
        let one_in = 10_f64.powi(decade);
        // The last label is the longest and is always kept; every second one before it may be left out.
        chart::draw_x_tick(&mut svg, x.at(one_in), &percent_label(one_in), (decades - decade) % 2 == 1);
    }
    chart::draw_x_title(&mut svg, "percentile");
    for (name, color, histogram) in curves {
        let decades = (histogram.len() as f64).min(one_in).log10();
        let steps = (decades * POINTS_PER_DECADE).ceil() as u32;
        let mut path = String::new();
        for step in 0..=steps {
            let one_in = 10_f64.powf(decades * f64::from(step) / f64::from(steps.max(1)));
            let command = if step == 0 { 'M' } else { 'L' };
            add(&mut path, format_args!("{command}{:.1} {:.1}", x.at(one_in), y.at(at(histogram, 1.0 - 1.0 / one_in))));
        }
        add(&mut svg, format_args!("<path class=\"line c{color}\" d=\"{path}\"><title>{name}</title></path>"));
    }
    svg.push_str("</svg>");
    svg
}

fn at(histogram: &IntervalHistogram, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// The percentile that one in `one_in` values exceeds: 10 is 90 %.
fn percent_label(one_in: f64) -> String {
    let nines = one_in.log10().round() as usize;
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        _ => format!("99.{} %", "9".repeat(nines - 2)),
    }
}

fn table(latency: &IntervalHistogram, lag: Option<&IntervalHistogram>) -> String {
    let rows = [
        ("min", 0.0),
        ("p50", 0.5),
        ("p75", 0.75),
        ("p90", 0.9),
        ("p95", 0.95),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("p99.99", 0.9999),
        ("p99.999", 0.99999),
        ("max", 1.0),
    ];
    let mut html = "<div class=\"scroll\"><table><thead><tr><th scope=\"col\"></th>".to_owned();
    html.push_str("<th scope=\"col\">latency</th>");
    if lag.is_some() {
        html.push_str("<th scope=\"col\">own lag</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for (name, quantile) in rows {
        let value = |it: &IntervalHistogram| format!("<td class=\"n\">{}</td>", time(at(it, quantile)));
        let lag = lag.map(value).unwrap_or_default();
        add(&mut html, format_args!("<tr><th scope=\"row\">{name}</th>{}{lag}</tr>\n", value(latency)));
    }
    html.push_str("</tbody></table></div>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_ten_times_rarer() {
        let labels = [1.0, 10.0, 100.0, 1000.0, 100_000.0].map(percent_label);
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
    }
}
