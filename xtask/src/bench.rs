//! Benchmarks: one by itself, or those that compare EDS with something else, from whose figures
//! docs/benchmarks.md and its picture are made.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use xtask::{TaskResult, output, root, run_with};

use crate::ci::ALL;
use crate::services;

/// What `cargo x bench` runs without a name, in the order of the page.
const COMPARED: [&str; 7] =
    ["stream", "changes", "import", "verify", "latency", "distance", "decode"];
/// Measures these again, and leaves the rest of the page as it is.
const AGAIN: &str = "--again";
const PAGE: &str = "docs/benchmarks.md";
const PICTURE: &str = "docs/benchmarks.svg";
/// The figures from which both are made, a line each.
const FIGURES: &str = "docs/benchmarks.tsv";
/// What is between these lines of the page is made.
const MARKS: (&str, &str) = ("<!-- figures -->\n", "<!-- end of figures -->\n");
/// Of the picture, in its own units: a line for each figure, and what a ratio of 1 is long.
const LINE_HEIGHT: usize = 22;
const LABEL_WIDTH: usize = 430;
const WIDTH_OF_ONE: f64 = 200.0;
/// Columns of a document.
const LINE_MAX: usize = 120;
/// A ratio is drawn up to here.
const RATIO_MAX: f64 = 2.0;

/// `cargo x bench`, `cargo x bench NAME [ARGS]`, `cargo x bench --again NAME…`.
pub fn bench(args: &[&str]) -> TaskResult {
    services::openssl()?;
    services::install()?;
    match args.split_first() {
        None => measure(&COMPARED),
        Some((&AGAIN, names)) => measure(names),
        Some((name, rest)) => one(name, rest, &[]),
    }
}

fn one(name: &str, args: &[&str], environment: &[(&str, &str)]) -> TaskResult {
    let words = [&["bench"], &ALL[..], &["--bench", "bench", "--", name], args].concat();
    run_with(environment, "cargo", &words)
}

/// A line of [`FIGURES`]. The first two parts are about the run, the others what the benchmark has
/// added.
struct Measured {
    bench: String,
    /// When, where and with what it was measured, for people.
    run: String,
    what: String,
    reached: String,
    beside: String,
    other: String,
    ratio: f64,
    peak: String,
}

/// Runs these, and makes the page and the picture anew.
fn measure(names: &[&str]) -> TaskResult {
    let (figures, added) = (root().join(FIGURES), root().join("target/figures.tsv"));
    for name in names {
        if !COMPARED.contains(name) {
            return Err(format!("{name} compares EDS with nothing; {} do", COMPARED.join(", ")));
        }
        let _ = fs::remove_file(&added);
        let begun = Instant::now();
        one(name, &[], &[("EDS_BENCH_FIGURES", &added.display().to_string())])?;
        println!("{name} took {:.0?}\n", begun.elapsed());
        let run = about_run();
        let new = read(&added)?;
        let new = new.lines().map(|line| format!("{name}\t{run}\t{line}"));
        let kept = fs::read_to_string(&figures).unwrap_or_default();
        let others = kept.lines().filter(|line| line.split('\t').next() != Some(name));
        let all: Vec<String> = others.map(str::to_owned).chain(new).collect();
        save(&figures, &(all.join("\n") + "\n"))?;
    }
    let all = parsed(&read(&figures)?)?;
    save(&root().join(PICTURE), &picture(&all))?;
    let page = root().join(PAGE);
    save(&page, &between_marks(&read(&page)?, &sections(&all))?)?;
    println!("{PAGE} and {PICTURE} are made of {FIGURES}");
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn save(path: &Path, text: &str) -> TaskResult {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn between_marks(page: &str, text: &str) -> Result<String, String> {
    let (begin, end) = MARKS;
    let parts = page.split_once(begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?)));
    let (head, (_, tail)) = parts.ok_or_else(|| format!("{PAGE} has no lines {begin}{end}"))?;
    Ok(format!("{head}{begin}{text}{end}{tail}"))
}

/// The figures in the order of [`COMPARED`].
fn parsed(text: &str) -> Result<Vec<Measured>, String> {
    let all: Result<Vec<Measured>, String> = text
        .lines()
        .map(|line| measured(line).ok_or_else(|| format!("{FIGURES}: no figure: {line}")))
        .collect();
    let mut all = all?;
    all.sort_by_key(|figure| COMPARED.iter().position(|name| *name == figure.bench));
    Ok(all)
}

fn measured(line: &str) -> Option<Measured> {
    let parts: Vec<&str> = line.split('\t').collect();
    let [bench, run, what, reached, beside, other, ratio, peak] = parts[..] else { return None };
    Some(Measured {
        bench: bench.into(),
        run: run.into(),
        what: what.into(),
        reached: reached.into(),
        beside: beside.into(),
        other: other.into(),
        ratio: ratio.parse().ok()?,
        peak: peak.into(),
    })
}

/// A table for each benchmark, under its name.
fn sections(figures: &[Measured]) -> String {
    let mut text = String::from("\n![the ratios as bars](benchmarks.svg)\n");
    for of_one in figures.chunk_by(|a, b| a.bench == b.bench) {
        let Measured { bench, run, .. } = &of_one[0];
        let run = wrapped(run);
        let _ = write!(
            text,
            "\n## {bench}\n\n{run}.\n\n| what | EDS | beside | its figure | ratio | peak memory \
             |\n| --- | --- | --- | --- | --- | --- |\n"
        );
        for Measured { what, reached, beside, other, ratio, peak, .. } in of_one {
            let _ = writeln!(
                text,
                "| {what} | {reached} | {beside} | {other} | **{ratio:.2}** | {peak} |"
            );
        }
    }
    text + "\n"
}

/// The words in lines that are as long as a document's may be.
fn wrapped(words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        match lines.last_mut() {
            // A dot follows the last word.
            Some(line) if line.len() + 1 + word.len() < LINE_MAX => {
                *line += if line.is_empty() { "" } else { " " };
                *line += word;
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// When, where and with what something was measured.
fn about_run() -> String {
    let first = |program: &str, args: &[&str]| {
        let said = output(Command::new(program).args(args)).unwrap_or_default();
        said.lines().next().unwrap_or("?").trim().to_owned()
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} at commit {}: {cores} cores ({}) and {} GiB, {}, {}, {}",
        first("date", &["-u", "+%Y-%m-%d"]),
        first("git", &["rev-parse", "--short", "HEAD"]),
        env::consts::ARCH,
        kib >> 20,
        first("rustc", &["--version"]),
        first("psql", &["--version"]),
        first(&services::nats().display().to_string(), &["--version"])
    )
}

/// The ratios as bars, with a line at 1.
fn picture(figures: &[Measured]) -> String {
    let (height, one) = (figures.len() * LINE_HEIGHT + 30, LABEL_WIDTH as f64 + WIDTH_OF_ONE);
    let width = LABEL_WIDTH as f64 + WIDTH_OF_ONE * RATIO_MAX + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>What EDS reaches of what does the \
         same beside it</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (n, figure) in figures.iter().enumerate() {
        let (top, base) = (n * LINE_HEIGHT + 6, n * LINE_HEIGHT + 19);
        let long = figure.ratio.min(RATIO_MAX) * WIDTH_OF_ONE;
        let label = escaped(&format!("{} / {}", figure.what, figure.beside));
        let end = LABEL_WIDTH as f64 + long + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\n<rect \
             x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{long:.0}\" height=\"16\" \
             fill=\"#3b7dd8\"/>\n<text x=\"{end:.0}\" y=\"{base}\">{:.2}</text>",
            LABEL_WIDTH - 8,
            figure.ratio
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.0}\" x2=\"{one:.0}\" y1=\"0\" y2=\"{}\" stroke=\"#444\" \
         stroke-dasharray=\"4 3\"/>\n<text x=\"{one:.0}\" y=\"{}\" \
         text-anchor=\"middle\">1</text>\n</svg>",
        height - 20,
        height - 6
    );
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_drawn_and_put_where_they_belong() {
        let text = "latency\tthen\tp50\t1 ms\tit\t2 ms\t2.00\t\n\
            stream\tnow\ta < b\t10/s\tit\t20/s\t0.50\t7 MiB\n";
        let all = parsed(text).unwrap_or_else(|e| panic!("{e}"));
        let made = sections(&all);
        assert!(made.contains("(benchmarks.svg)\n\n## stream\n\nnow.\n\n| what "), "{made}");
        assert!(made.contains("| a < b | 10/s | it | 20/s | **0.50** | 7 MiB |\n\n## latency\n"));
        assert!(picture(&all).contains(">a &lt; b / it</text>"));
        assert!(parsed("stream\tnow\ta\t10/s\tit\t20/s\tmany\t\n").is_err());
        let (begin, end) = MARKS;
        let page = format!("before\n{begin}old\n{end}after\n");
        assert_eq!(between_marks(&page, "new\n"), Ok(format!("before\n{begin}new\n{end}after\n")));
        assert!(between_marks("no marks", "new\n").is_err());
    }
}
