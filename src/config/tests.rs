use super::*;

fn machine(cpus: usize) -> Machine {
    Machine {
        descriptors: 20_000,
        cpus: (0..cpus).collect(),
        cpu_quota: None,
        threads: None,
        memory: Bound { value: 24 << 30, set_by: "physical memory".into() },
    }
}

fn on(machine: &Machine, options: &Options) -> Result<Config, ConfigError> {
    Config::of_engine(options, machine, Engine::Uring, Tables::OnePerWorker, Vec::new())
}

fn resolve(options: &Options) -> Result<Config, ConfigError> {
    on(&machine(2), options)
}

#[test]
fn rings_are_as_many_as_the_connections_need() {
    let of = |max_connections| resolve(&Options { max_connections, ..Options::default() }).unwrap();
    assert_eq!(of(None).max_connections, 40_000);
    let config = of(Some(500_000));
    assert_eq!((config.workers(), config.plans[0].capacity), (25, 20_000));
    assert_eq!(of(Some(1000)).workers(), 2);
}

#[test]
fn the_workers_capacities_add_up_to_the_limit() {
    for (workers, max_connections) in [(3, 10), (1, 7), (4, 3), (25, 499_999)] {
        let options = Options { workers: Some(workers), max_connections: Some(max_connections), ..Options::default() };
        let sum: usize = resolve(&options).unwrap().plans.iter().map(|plan| plan.capacity as usize).sum();
        assert_eq!(sum, max_connections);
    }
}

#[test]
fn workers_beyond_the_processors_add_no_receive_memory() {
    let memory = |max_connections| {
        let plans = resolve(&Options { max_connections, ..Options::default() }).unwrap().plans;
        plans.iter().map(|plan| plan.receive_memory).sum::<usize>()
    };
    assert!(memory(Some(500_000)) <= memory(None));
}

/// Containers have limits of 2^30; each worker reserves its table's memory.
#[test]
fn a_table_has_a_sane_size_whatever_the_limit() {
    for engine in [Engine::Uring, Engine::TokioUring, Engine::Epoll] {
        for tables in [Tables::OnePerWorker, Tables::One] {
            let machine = Machine { descriptors: 1 << 30, ..machine(2) };
            let config = Config::of_engine(&Options::default(), &machine, engine, tables, Vec::new()).unwrap();
            assert!(config.max_connections <= 2 << 20, "{engine:?}: {}", config.max_connections);
        }
    }
}

#[test]
fn one_table_holds_the_connections_of_all_workers() {
    let resolve = |max_connections| {
        let options = Options { max_connections, ..Options::default() };
        Config::of_engine(&options, &machine(2), Engine::Epoll, Tables::One, Vec::new())
    };
    let config = resolve(None).unwrap();
    assert!(config.max_connections < 20_000 - 2 * 8 && !config.plans[0].has_own_table, "{}", config.max_connections);
    let refused = resolve(Some(20_000)).unwrap_err().to_string();
    assert!(refused.contains("RLIMIT_NOFILE"), "{refused}");
}

#[test]
fn workers_are_as_many_as_the_quota_has_cpus() {
    for (quota, workers) in [(0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (7.9, 4)] {
        let quota = Some(Bound { value: quota, set_by: "cgroup cpu.max".into() });
        let machine = Machine { cpu_quota: quota, ..machine(4) };
        let config = on(&machine, &Options::default()).unwrap();
        assert_eq!(config.workers(), workers);
        assert_eq!(config.to_string().contains("cgroup cpu.max"), workers < 4, "{config}");
        assert_eq!(on(&machine, &Options { workers: Some(4), ..Options::default() }).unwrap().workers(), 4);
    }
}

#[test]
fn workers_are_pinned_where_each_cpu_has_one_or_where_that_is_asked_for() {
    let cpus = |options: &Options| {
        let machine = Machine { cpus: vec![1, 3, 5], ..machine(0) };
        on(&machine, options).map(|config| config.plans.iter().map(|plan| plan.cpu).collect::<Vec<_>>())
    };
    assert_eq!(cpus(&Options::default()).unwrap(), [1, 3, 5].map(Some));
    assert_eq!(cpus(&Options { workers: Some(2), ..Options::default() }).unwrap(), [None, None]);
    let of_list = Options { cpus: Some(vec![5, 1]), workers: Some(3), ..Options::default() };
    assert_eq!(cpus(&of_list).unwrap(), [5, 1, 5].map(Some));
    let refused = cpus(&Options { cpus: Some(vec![2]), ..Options::default() }).unwrap_err().to_string();
    assert!(refused.contains("1,3,5"), "{refused}");
}

#[test]
fn the_backlog_of_all_is_a_quarter_of_the_memory() {
    const MIB: u64 = 1 << 20;
    for (memory, total, message) in
        [(24 << 30, 1 << 30, 16 * MIB), (136 * MIB, 34 * MIB, 255 * MIB / 16), (64 * MIB, 16 * MIB, 15 * MIB / 2)]
    {
        let memory = Bound { value: memory, set_by: "cgroup memory.max".into() };
        let config = on(&Machine { memory, ..machine(2) }, &Options::default()).unwrap();
        let sum: usize = config.plans.iter().map(|plan| plan.backlog.total).sum();
        assert_eq!((sum as u64, config.plans[0].settings.max_message_size), (total, message), "{config}");
        assert_eq!(config.to_string().contains("cgroup memory.max"), total < 1 << 30, "{config}");
        assert_eq!(config.notes(), &[] as &[String]);
    }
}

#[test]
fn a_message_within_the_limit_fits_into_the_backlog() {
    const MIB: u64 = 1 << 20;
    // Message limit and backlog, as asked for and as they are; whether that is worth a note.
    for (message, backlog, are, is_noted) in [
        (None, None, (16 * MIB, 16 * MIB), false),
        (Some(MIB), None, (MIB, 16 * MIB), false),
        (Some(64 * MIB), None, (64 * MIB, 64 * MIB), false),
        (None, Some(MIB), (MIB, MIB), false),
        (None, Some(64 * MIB), (16 * MIB, 64 * MIB), false),
        (Some(16 * MIB), Some(MIB), (16 * MIB, MIB), true),
        (Some(2048 * MIB), None, (2048 * MIB, 480 * MIB), true),
        (Some(0), None, (u64::MAX, 16 * MIB), false),
    ] {
        let options = Options { max_message_size: message, backlog_per_connection: backlog, ..Options::default() };
        let mut notes = Vec::new();
        let sizes = Sizes::choose(&options, &machine(2), 2, &mut notes).unwrap();
        assert_eq!((sizes.message, sizes.backlog), are, "{message:?} {backlog:?}");
        assert_eq!(!notes.is_empty(), is_noted, "{notes:?}");
    }
}

#[test]
fn nonsense_is_refused_with_its_remedy() {
    let default = Options::default;
    let listen = |addresses: &[&str]| addresses.iter().map(|&address| address.to_owned()).collect();
    for (options, word) in [
        (Options { workers: Some(0), ..default() }, "at least one"),
        (Options { max_connections: Some(0), ..default() }, "at least one"),
        (Options { cpus: Some(vec![]), ..default() }, "at least one"),
        (Options { workers: Some(1), max_connections: Some(20_001), ..default() }, "--workers 2"),
        (Options { workers: Some(10_000), ..default() }, "RLIMIT_NOFILE"),
        (Options { workers: Some(1 << 63), ..default() }, "RLIMIT_NOFILE"),
        (Options { max_connections: Some(5_000_000_000), ..default() }, "--max-connections"),
        (Options { listen: listen(&["127.0.0.1:1", "127.0.0.1:1"]), ..default() }, "twice"),
        (Options { listen: listen(&["0.0.0.0:1", "127.0.0.1:1"]), ..default() }, "overlap"),
        (Options { listen: listen(&[]), ..default() }, "listen"),
        (Options { listen: listen(&["nowhere"]), ..default() }, "HOST:PORT"),
        (Options { backlog_per_connection: Some(1024), ..default() }, "64 KiB"),
        (Options { subprotocols: vec!["a/b".into()], ..default() }, "token"),
        (Options { path: Some("echo".into()), ..default() }, "--path \"echo\": a path starts with '/'"),
        (Options { health_path: Some("/a b".into()), ..default() }, "--health-path"),
        (Options { max_handshake_size: 1 << 30, ..default() }, "--max-handshake-size"),
        (Options { max_handshake_headers: 0, ..default() }, "--max-handshake-headers"),
    ] {
        let message = resolve(&options).expect_err(word).to_string();
        assert!(message.contains(word), "{options:?}: {message}");
    }
    let few = Machine { descriptors: 64, ..machine(2) };
    let message = on(&few, &default()).unwrap_err().to_string();
    assert!(message.contains("RLIMIT_NOFILE is 64") && !message.contains("--max-connections"), "{message}");
    let listen = listen(&["0.0.0.0:1", "[::]:1", "0.0.0.0:0", "127.0.0.1:0"]);
    assert!(resolve(&Options { listen, ..default() }).is_ok());
}

/// Workers' own tables hold copies of all listeners: many of them leave fewer descriptors to connections.
#[test]
fn many_listeners_take_their_descriptors_from_connections() {
    let capacity = |listeners: usize| {
        let listen = (0..listeners).map(|number| format!("unix:@{number}")).collect();
        let options = Options { listen, ..Options::default() };
        let config = Config::of_engine(&options, &machine(2), Engine::Epoll, Tables::OnePerWorker, Vec::new());
        config.unwrap().max_connections()
    };
    assert_eq!(capacity(1), capacity(7));
    assert_eq!(capacity(7) - capacity(27), 2 * 20);
}
