//! Benchmarks: one by itself, or all of them as one table of ratios with its picture.

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
const PAGE: &str = "docs/benchmarks.md";
const PICTURE: &str = "docs/benchmarks.svg";
/// What is between these lines of the page is written by [`all`].
const MARKS: (&str, &str) = ("<!-- figures -->\n", "<!-- end of figures -->\n");
/// Of the picture, in its own units: a line for each figure, and what a ratio of 1 is long.
const LINE_HEIGHT: usize = 22;
const LABEL_WIDTH: usize = 430;
const WIDTH_OF_ONE: f64 = 200.0;
/// A ratio is drawn up to here.
const RATIO_MAX: f64 = 2.0;

/// `cargo x bench [NAME [ARGS]]`.
pub fn bench(args: &[&str]) -> TaskResult {
    services::openssl()?;
    services::install()?;
    match args.split_first() {
        None => all(),
        Some((name, rest)) => one(name, rest, &[]),
    }
}

fn one(name: &str, args: &[&str], environment: &[(&str, &str)]) -> TaskResult {
    let words = [&["bench"], &ALL[..], &["--bench", name, "--"], args].concat();
    run_with(environment, "cargo", &words)
}

/// A line that a benchmark has added.
struct Measured {
    what: String,
    reached: String,
    beside: String,
    other: String,
    ratio: f64,
    peak: String,
}

fn all() -> TaskResult {
    let file = root().join("target/figures.tsv");
    let _ = fs::remove_file(&file);
    let path = file.display().to_string();
    let mut text = about_machine();
    let mut figures = Vec::new();
    for name in COMPARED {
        let begun = Instant::now();
        one(name, &[], &[("EDS_BENCH_FIGURES", &path)])?;
        println!("{name} took {:.0?}\n", begun.elapsed());
        let added = read(&file)?;
        let _ = write!(text, "\n## {name}\n\n{}", table(&added[figures.len()..]));
        figures = added;
    }
    save(&root().join(PICTURE), &picture(&figures))?;
    let page = root().join(PAGE);
    let before = fs::read_to_string(&page).map_err(|e| format!("{PAGE}: {e}"))?;
    save(&page, &between_marks(&before, &text)?)?;
    println!("{text}\n{PAGE} and {PICTURE} are written");
    Ok(())
}

fn save(path: &Path, text: &str) -> TaskResult {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn between_marks(page: &str, text: &str) -> Result<String, String> {
    let (begin, end) = MARKS;
    let parts = page.split_once(begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?)));
    let (head, (_, tail)) = parts.ok_or_else(|| format!("{PAGE} has no lines {begin}{end}"))?;
    Ok(format!("{head}{begin}{text}\n{end}{tail}"))
}

fn read(file: &Path) -> Result<Vec<Measured>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    text.lines().map(|line| measured(line).ok_or_else(|| format!("no figure: {line}"))).collect()
}

fn measured(line: &str) -> Option<Measured> {
    let parts: Vec<&str> = line.split('\t').collect();
    let [what, reached, beside, other, ratio, peak] = parts[..] else { return None };
    Some(Measured {
        what: what.into(),
        reached: reached.into(),
        beside: beside.into(),
        other: other.into(),
        ratio: ratio.parse().ok()?,
        peak: peak.into(),
    })
}

fn table(figures: &[Measured]) -> String {
    let mut text = String::from(
        "| what | EDS | beside | its figure | ratio | peak memory |\n| --- | --- | --- | --- | --- \
         | --- |\n",
    );
    for Measured { what, reached, beside, other, ratio, peak } in figures {
        let _ =
            writeln!(text, "| {what} | {reached} | {beside} | {other} | **{ratio:.2}** | {peak} |");
    }
    text
}

/// The machine and the versions of what takes part, as a table.
fn about_machine() -> String {
    let first = |program: &str, args: &[&str]| {
        let said = output(Command::new(program).args(args)).unwrap_or_default();
        said.lines().next().unwrap_or("not found").trim().to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |key: &str| {
        cpu.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':')).map(|(_, v)| v)
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let lines = [
        ("date", first("date", &["-u", "+%Y-%m-%d"])),
        ("processor", named("model name").unwrap_or(env::consts::ARCH).trim().to_owned()),
        ("cores", cores.to_string()),
        ("memory", format!("{} GiB", kib >> 20)),
        ("kernel", first("uname", &["-sr"])),
        ("Rust", first("rustc", &["--version"])),
        ("PostgreSQL", first("psql", &["--version"])),
        ("NATS", first(&services::nats().display().to_string(), &["--version"])),
        ("commit", first("git", &["rev-parse", "--short", "HEAD"])),
    ];
    let mut text = String::from("| machine | |\n| --- | --- |\n");
    for (name, value) in lines {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text
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
        let one = measured("a < b\t10/s\tit\t20/s\t0.50\t").unwrap_or_else(|| panic!("a figure"));
        assert!(table(&[one]).ends_with("| a < b | 10/s | it | 20/s | **0.50** |  |\n"));
        let one = measured("a < b\t10/s\tit\t20/s\t0.50\t7 MiB").unwrap_or_else(|| panic!("one"));
        assert!(picture(&[one]).contains(">a &lt; b / it</text>"));
        assert!(measured("a\t10/s\tit\t20/s\tmany\t").is_none());
        let (begin, end) = MARKS;
        let page = format!("before\n{begin}old\n{end}after\n");
        assert_eq!(
            between_marks(&page, "new\n"),
            Ok(format!("before\n{begin}new\n\n{end}after\n"))
        );
        assert!(between_marks("no marks", "new\n").is_err());
    }
}
