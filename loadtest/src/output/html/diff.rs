//! Two results side by side: the figures in a table, then the charts of both on the same scales.

use super::super::diff::Diff;
use super::chart::{Range, add};
use super::{escape, heat, over_time};

/// The body of the page.
pub(super) fn sections(diff: &Diff) -> String {
    format!("{}{}{}", figures(diff), differences(diff), charts(diff))
}

fn figures(diff: &Diff) -> String {
    let [a, b] = diff.names.each_ref().map(|name| escape(name));
    let mut html = "<section><div class=\"scroll\"><table class=\"diff\"><thead><tr><th scope=\"col\"></th>".to_owned();
    add(&mut html, format_args!("<th scope=\"col\">A: {a}</th><th scope=\"col\">B: {b}</th>"));
    html.push_str("<th scope=\"col\">change</th></tr></thead><tbody>");
    for row in &diff.rows {
        let [a, b] = row.values.each_ref().map(|value| escape(value));
        let class = match row.is_better() {
            Some(true) => "better",
            Some(false) => "worse",
            None => "n",
        };
        let (name, change) = (row.name, row.change_text());
        add(&mut html, format_args!("<tr><th scope=\"row\">{name}</th><td>{a}</td><td>{b}</td>"));
        add(&mut html, format_args!("<td class=\"{class}\">{change}</td></tr>\n"));
    }
    html.push_str("</tbody></table></div>");
    html.push_str(
        "<p class=\"unit\">One run of each: a difference within the spread of repetitions is none.</p></section>\n",
    );
    html
}

fn differences(diff: &Diff) -> String {
    if diff.differences.is_empty() {
        return String::new();
    }
    let mut html =
        "<section><h2>Not the same</h2><div class=\"scroll\"><table class=\"facts\"><thead><tr><th scope=\"col\"></th>\
                    <th scope=\"col\">A</th><th scope=\"col\">B</th></tr></thead><tbody>"
            .to_owned();
    for (name, [a, b]) in &diff.differences {
        let (name, a, b) = (escape(name), escape(a), escape(b));
        add(&mut html, format_args!("<tr><th scope=\"row\">{name}</th><td>{a}</td><td>{b}</td></tr>\n"));
    }
    html.push_str("</tbody></table></div></section>\n");
    html
}

/// A chart that one result lacks leaves an empty space.
fn charts(diff: &Diff) -> String {
    let both = diff.reports.map(over_time::charts);
    let mut titles: Vec<_> = both[0].iter().map(|chart| chart.title).collect();
    titles.extend(both[1].iter().map(|chart| chart.title).filter(|title| both[0].iter().all(|it| it.title != *title)));
    let mut pairs: Vec<[Option<String>; 2]> = Vec::new();
    for title in titles {
        let pair = both.each_ref().map(|charts| charts.iter().find(|chart| chart.title == title));
        let range = pair.iter().flatten().map(|chart| chart.range()).reduce(Range::and);
        pairs.push(pair.map(|chart| Some(chart?.render(range?))));
    }
    let maps = diff.reports.map(|report| heat::Map::of(&report.series));
    let range = maps.iter().flatten().map(heat::Map::range).reduce(Range::and);
    pairs.push(maps.each_ref().map(|map| Some(map.as_ref()?.render(range?))));
    let mut html = "<section><h2>Over time</h2>\n<div class=\"pairs\">".to_owned();
    for [name, side] in [[&diff.names[0], "A"], [&diff.names[1], "B"]] {
        add(&mut html, format_args!("<h3 class=\"side\">{side}: {}</h3>\n", escape(name)));
    }
    for [a, b] in pairs.iter().filter(|pair| pair.iter().any(Option::is_some)) {
        for (side, figure) in [("A", a), ("B", b)] {
            let figure = figure.as_deref().unwrap_or("<p class=\"unit\">no values</p>");
            add(&mut html, format_args!("<div data-side=\"{side}\">{figure}</div>\n"));
        }
    }
    html.push_str("</div></section>\n");
    html
}
