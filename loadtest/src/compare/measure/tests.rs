use super::*;
use crate::compare::file::Comparison;
use crate::output::report::tests::report;

fn cell(text: &str) -> Cell {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ringload-cell-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, format!("[[server]]\nname = 'a'\ncommand = 'a'\n[[cell]]\n{text}\n")).unwrap();
    let comparison = Comparison::read(std::slice::from_ref(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    comparison.cells[0].clone()
}

fn kinds(measurement: &Measurement) -> Vec<FaultKind> {
    measurement.faults.iter().map(|fault| fault.kind).collect()
}

/// 10 active connections, depth 1: 1000 echoes/s with a mean of 10 ms satisfy Little's law.
fn lawful() -> Report {
    let mut report = report();
    let measured = report.measured.as_mut().unwrap();
    measured.latency_us.as_mut().unwrap().mean = 10_000.0;
    report.runs[0].scenario.depth = Some(1);
    report.runs[0].scenario.active = 10;
    report
}

#[test]
fn a_good_run_has_all_values_and_no_fault() {
    let measurement = judge(&lawful(), &cell(""), None);
    assert_eq!(measurement.faults, []);
    for (metric, value) in [(Metric::CpuPerEcho, 500.0), (Metric::Rate, 1000.0), (Metric::ConnectCpu, 20.0)] {
        assert!((measurement.values[&metric] - value).abs() < 1e-6, "{metric:?}: {:?}", measurement.values);
    }
    assert!(!measurement.values.contains_key(&Metric::BytesPerConnection), "too few connections");
}

#[test]
fn numbers_that_cannot_be_true_together_are_found() {
    let mut report = lawful();
    report.measured.as_mut().unwrap().latency_us.as_mut().unwrap().mean = 8000.0;
    let measurement = judge(&report, &cell(""), None);
    assert_eq!(kinds(&measurement), [FaultKind::Inconsistent]);
    assert_eq!(measurement.faults[0].why, "10 messages were in flight, rate times mean latency is 8");
    assert!(measurement.is_spoiled(Metric::CpuPerEcho));
    assert_eq!(judge(&report, &cell("messages-per-connection = 10"), None).faults, [], "it is not known how many were");
}

#[test]
fn a_server_that_declines_compression_is_not_compared_with_those_that_do_not() {
    let mut report = lawful();
    report.runs[0].scenario.deflate = Some("permessage-deflate".to_owned());
    let measurement = judge(&report, &cell("args = '--deflate'"), None);
    assert_eq!(kinds(&measurement), [FaultKind::NotSupported]);
    assert_eq!(measurement.faults[0].why, "compression was declined on 100 connections");
    report.connections.deflating = 100;
    assert_eq!(judge(&report, &cell("args = '--deflate'"), None).faults, []);
}

#[test]
fn who_took_the_processors_is_told() {
    let mut report = lawful();
    report.measured.as_mut().unwrap().load_cpu.others_cores = 0.06;
    let measurement = judge(&report, &cell(""), None);
    assert_eq!(kinds(&measurement), [FaultKind::Others]);
    assert_eq!(measurement.faults[0].why, "other processes used 6.0 % of the load's processors");
}

#[test]
fn a_full_generator_spoils_what_it_has_measured_of_itself() {
    let mut report = lawful();
    report.verdict.as_mut().unwrap().bound = Bound::GeneratorBound;
    let measurement = judge(&report, &cell(""), None);
    assert_eq!(kinds(&measurement), [FaultKind::Generator]);
    assert!(measurement.is_spoiled(Metric::Rate) && measurement.is_spoiled(Metric::P99));
    assert!(!measurement.is_spoiled(Metric::CpuPerEcho) && !measurement.is_spoiled(Metric::PeakMemory));
}

#[test]
fn a_late_generator_and_a_slow_server_are_told_apart_in_an_open_loop() {
    let mut report = lawful();
    let open = cell("rate = 1000");
    assert_eq!(judge(&report, &open, Some(1000.0)).faults, []);
    let latency = report.measured.as_ref().unwrap().latency_us.unwrap();
    report.measured.as_mut().unwrap().lag_us =
        Some(crate::output::report::LatencyReport { p99: latency.p99, ..Default::default() });
    assert_eq!(kinds(&judge(&report, &open, Some(1000.0))), [FaultKind::Generator]);
    let of_another = judge(&report, &cell("rate = 1000\nmetric = 'p50'"), Some(1000.0));
    assert_eq!(of_another.faults, [], "only the 99th percentile is late");
    let has = |metric| of_another.values.contains_key(&metric);
    assert!(has(Metric::P50) && !has(Metric::P99) && has(Metric::CpuPerEcho));
    assert_eq!(kinds(&judge(&lawful(), &open, Some(1100.0))), [FaultKind::TooSlow]);
}

#[test]
fn what_was_lost_is_no_measurement() {
    let mut report = lawful();
    report.ok = false;
    report.messages.lost = 3;
    let measurement = judge(&report, &cell(""), None);
    assert_eq!(kinds(&measurement), [FaultKind::Failed]);
    assert!(measurement.faults[0].why.starts_with("3 echoes lost"), "{:?}", measurement.faults);
    let idle = judge(&Report { measured: None, ..lawful() }, &cell("active = 0"), None);
    assert_eq!(idle.faults, []);
}

#[test]
fn a_cell_becomes_the_arguments_of_a_run() {
    let args = |text: &str, rate| arguments(&cell(text), "ws://x/", 7, &[1, 2], rate, Path::new("/r.json")).join(" ");
    let fixed = "run --quiet ws://x/ --json=/r.json --server-pid=7 --cpus=1,2";
    assert_eq!(args("", None), format!("{fixed} --connections=100 --size=128 --duration=2s --warmup=1s"));
    assert_eq!(
        args("connections = 100\nslow-readers = 1\ndepth = 16\nargs = '--text'", None),
        format!("{fixed} --connections=101 --size=128 --duration=2s --warmup=1s --depth=16 --slow-readers=1 --text")
    );
    assert!(args("messages-per-connection = 10", None).ends_with("--messages-per-connection=10 --no-greet"));
    assert!(args("rate = '60%-of-slowest'", Some(1234.5)).ends_with("--rate=1234.500"));
    assert!(args("active = 0\nconnections = '10k'", None).contains("--connections=10000 --size=128 --duration=200ms"));
}
