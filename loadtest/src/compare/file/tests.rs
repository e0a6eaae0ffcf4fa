use super::*;
use crate::compare::metric::Metric;

/// A temporary directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringload-compare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn read(name: &str, text: &str) -> Result<Comparison, String> {
    let directory = Directory::new(name);
    let path = directory.write("compare.toml", text);
    Comparison::read(&[path]).map_err(|mistake| {
        let text = mistake.to_string();
        text.rsplit_once('/').map_or(text.clone(), |(_, end)| end.to_owned())
    })
}

const SERVER: &str = "[[server]]\nname = 'a'\ncommand = './a {port}'\n";

#[test]
fn the_example_of_the_documentation_is_read() {
    let docs = include_str!("../../../../docs/COMPARISON.md");
    let example = docs.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = Directory::new("docs");
    let example = example.replace("include = [\"../peers/peers.toml\"]", "include = ['more.toml']");
    directory.write("more.toml", "[[server]]\nname = 'ringecho'\ncommand = '{ringecho} --listen 127.0.0.1:{port}'");
    let comparison = Comparison::read(&[directory.write("compare.toml", &example)]).unwrap();
    assert_eq!(comparison.settings.rounds, 9);
    assert_eq!(comparison.settings.baseline, "ringecho");
    assert_eq!(comparison.baseline(), Some(0), "what is included comes first");
    let server = &comparison.servers[1];
    assert_eq!((server.name.as_str(), server.stop_signal), ("uwebsockets", StopSignal::Int));
    assert_eq!(server.ready, ReadyWhen::Log("Listening".to_owned()));
    assert_eq!(server.ready_timeout, Duration::from_secs(20), "from [defaults]");
    assert_eq!(server.limits.max_message, Some(16 << 20));
    assert_eq!(server.dir, directory.0.canonicalize().unwrap().join("uws"));
    let names: Vec<&str> = comparison.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert_eq!((names[2], names[9]), ("128 B x 1k depth 1", "10k idle"));
}

#[test]
fn the_comparisons_of_this_repository_have_rounds_enough() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/compare");
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let comparison = Comparison::read(std::slice::from_ref(&file)).unwrap();
        let confidence = comparison.settings.confidence;
        for cell in &comparison.cells {
            let is_enough = crate::compare::statistics::is_enough(cell.rounds as usize, confidence);
            assert!(is_enough, "{}: {}: {} rounds", file.display(), cell.name, cell.rounds);
        }
    }
}

#[test]
fn both_sides_have_a_usable_processor_by_default() {
    let usable = ringecho::sys::usable_cpus().unwrap();
    let cpus = |text: &str| {
        let settings = read("cpus", &format!("{text}{SERVER}")).unwrap().settings;
        (settings.server_cpus, settings.load_cpus)
    };
    let (first, second) = (usable[0], usable[1.min(usable.len() - 1)]);
    assert_eq!(cpus(""), (vec![first], vec![second]));
    assert_eq!(cpus(&format!("[compare]\nserver-cpus = {second}\n")), (vec![second], vec![first]));
    assert_eq!(cpus(&format!("[compare]\nload-cpus = {first}\n")), (vec![second], vec![first]));
    let quick = quick_settings("a", 7, Duration::ZERO, Duration::ZERO);
    assert_eq!((quick.server_cpus, quick.load_cpus), (vec![first], vec![second]));
}

#[test]
fn lists_are_multiplied_and_names_tell_cells_apart() {
    let cells = |text: &str| {
        let names = |it: Comparison| it.cells.into_iter().map(|cell| cell.name).collect::<Vec<_>>();
        read("product", &format!("{SERVER}{text}")).map(names)
    };
    let product = "[[cell]]\nconnections = [1, '10k']\nsize = [128, '16KiB']\ndepth = [1, 16]\n";
    let names = cells(product).unwrap();
    assert_eq!(names.len(), 8);
    assert_eq!([&names[0], &names[7]], ["128 B x 1 depth 1", "16 KiB x 10k depth 16"]);
    assert_eq!(cells("[[cell]]\nname = 'a {depth}'\ndepth = [1, 2]\n").unwrap(), ["a 1", "a 2"]);
    let twice = cells("[[cell]]\nname = 'a'\ndepth = [1, 2]\n").unwrap_err();
    assert_eq!(
        twice,
        "compare.toml:4: there are two cells named `a` (names may hold {connections}, {size} and {depth})"
    );
}

#[test]
fn what_a_cell_shows_follows_from_what_it_does() {
    let text = "[[cell]]\nname = 'closed'\n[[cell]]\nname = 'open'\nrate = '60%-of-slowest'\n\
                [[cell]]\nname = 'idle'\nconnections = 10_000\nactive = 0\n[[cell]]\nname = 'fixed'\nrate = 5000\n";
    let cells = read("metric", &format!("{SERVER}{text}")).unwrap().cells;
    let metrics: Vec<Metric> = cells.iter().map(|cell| cell.metric).collect();
    assert_eq!(metrics, [Metric::CpuPerEcho, Metric::P99, Metric::BytesPerConnection, Metric::P99]);
    assert_eq!(cells[1].rate, Some(Rate::ShareOfSlowest(0.6)));
    assert_eq!(cells[3].rate, Some(Rate::PerSecond(5000.0)));
    assert!(cells[2].is_idle() && cells[2].warmup.is_zero() && !cells[0].is_idle());
}

#[test]
fn mistakes_have_a_line_a_key_and_the_word_that_was_meant() {
    let server = SERVER;
    for (text, expected) in [
        ("[compare]\nroundz = 5\n".to_owned(), "compare.toml:2: `roundz` is no key here; did you mean `rounds`?"),
        ("[comparee]\nrounds = 5\n".to_owned(), "compare.toml:1: `comparee` is no key here; did you mean `compare`?"),
        ("[compare]\nrounds = 'x'\n".to_owned(), "compare.toml:2: `rounds`: invalid type: string \"x\", expected u32"),
        ("[compare]\nsame-within = '2'\n".to_owned(), "compare.toml:2: `same-within`: \"2\" is not less than 100%"),
        (
            "[compare]\nfresh = 'cel'\n".to_owned(),
            "compare.toml:2: `cel` is no value of `fresh` here; did you mean `cell`?",
        ),
        ("[compare]\nrounds = 0\n".to_owned(), "compare.toml:2: `rounds`: 0 is not between 1 and 1000"),
        (
            format!("[compare]\nbaseline = 'aa'\n{server}"),
            "compare.toml:2: baseline: `aa` is no server; did you mean `a`?",
        ),
        ("[[server]]\ncommand = 'x'\n".to_owned(), "compare.toml:1: a [[server]] needs a `name`"),
        ("[[server]]\nname = 'x'\n".to_owned(), "compare.toml:1: server `x` needs a `command`"),
        (
            "[[server]]\nname = 'x y'\ncommand = 'x'\n".to_owned(),
            "compare.toml:2: `name`: \"x y\" is not made of letters, digits and -_.+",
        ),
        (
            "[[server]]\nname = 'x'\ncommand = 'x {prot}'\n".to_owned(),
            "compare.toml:3: `command`: `{prot}` is no placeholder; did you mean `{port}`?",
        ),
        (
            "[[server]]\nname = 'x'\ncommand = 'x'\nneeds = ['kernal>=5.1']\n".to_owned(),
            "compare.toml:4: `needs`: `kernal>=5.1` is no need; did you mean `kernel>=`?",
        ),
        (
            "[[server]]\nname = 'x'\ncommand = 'x'\nstop = { signal = 'TREM' }\n".to_owned(),
            "compare.toml:4: `TREM` is no value of `signal` here; did you mean `TERM`?",
        ),
        (
            "[[server]]\nname = 'x'\ncommand = 'x'\nready = { log = 'on {prot}' }\n".to_owned(),
            "compare.toml:4: `ready`: `{prot}` is no placeholder; did you mean `{port}`?",
        ),
        (format!("{server}{server}"), "compare.toml:4: there are two servers named `a`"),
        (
            format!("{server}[[cell]]\nconections = 5\n"),
            "compare.toml:5: `conections` is no key here; did you mean `connections`?",
        ),
        (
            format!("{server}[[cell]]\nmetric = 'p98'\n"),
            "compare.toml:5: `metric`: `p98` is no metric; did you mean `p99`?",
        ),
        (format!("{server}[[cell]]\nconnections = [1, 0]\n"), "compare.toml:5: `connections`: must be more than 0"),
        (
            format!("{server}[[cell]]\nactive = 0\nrate = 5\n"),
            "compare.toml:5: `active = 0` sends nothing: neither `rate` nor `messages-per-connection` go with it",
        ),
        ("include = ['nowhere.toml']\n".to_owned(), "compare.toml:1: include: cannot read"),
        ("[[cell]]\n".to_owned(), "compare.toml: there is no [[server]] in it"),
        ("[compare\n".to_owned(), "compare.toml:1: "),
    ] {
        let error = read("mistakes", &text).map(|_| ()).unwrap_err();
        // The error names an unreadable file with its directory, which is left out here.
        let is_include = expected.contains("include") && error.starts_with("nowhere.toml: No such file");
        assert!(error.starts_with(expected) || is_include, "{text}\n  {error}\n  {expected}");
    }
}

#[test]
fn several_files_are_one_comparison() {
    let directory = Directory::new("several");
    let servers = directory.write("servers.toml", SERVER);
    let cells = directory.write("cells.toml", "include = ['servers.toml']\n[compare]\nrounds = 3\n[[cell]]\n");
    let both = Comparison::read(&[servers, cells.clone()]).unwrap();
    assert_eq!((both.servers.len(), both.cells.len(), both.settings.rounds), (1, 1, 3));
    let more = directory.write("more.toml", "[compare]\nrounds = 4\n");
    let error = Comparison::read(&[cells, more]).unwrap_err().to_string();
    assert!(error.contains("more.toml:1: [compare] is in") && error.contains("cells.toml as well"), "{error}");
}

#[test]
fn only_what_is_named_stays() {
    let text = "[[server]]\nname = 'base'\ncommand = 'x'\n[[server]]\nname = 'other'\ncommand = 'x'\n[[server]]\nname = \
                'third'\ncommand = 'x'\n[[cell]]\nconnections = [1, 100, 1000]\n";
    let only = |words: &[&str]| {
        let mut it = read("only", text).unwrap();
        it.keep_only(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
            .map(|()| (it.servers.into_iter().map(|it| it.name).collect::<Vec<_>>(), it.cells.len()))
    };
    assert_eq!(only(&[]).unwrap().1, 3);
    assert_eq!(only(&["third"]).unwrap(), (vec!["base".to_owned(), "third".to_owned()], 3));
    assert_eq!(only(&["*100", "o*r"]).unwrap(), (vec!["base".to_owned(), "other".to_owned()], 1));
    assert_eq!(only(&["128 B*"]).unwrap().1, 3);
    assert_eq!(only(&["othr"]).unwrap_err(), "--only: `othr` is no server and no cell; did you mean `other`?");
}
