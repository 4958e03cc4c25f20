//! Prometheus' text form: families of samples, written, read back and added up.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write};

/// What the samples of a family are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FamilyKind {
    /// They only grow.
    Counter,
    /// They come and go.
    Gauge,
    /// Buckets, count and sum, which only grow.
    Histogram,
}

/// The samples of one metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    name: String,
    help: String,
    kind: FamilyKind,
    /// Each with its name and labels, as they are written.
    samples: Vec<(String, f64)>,
}

impl Family {
    /// A gauge without samples.
    pub fn gauge(name: &str, help: &str) -> Family {
        Family::of(name, help, FamilyKind::Gauge)
    }

    /// A counter without samples.
    pub fn counter(name: &str, help: &str) -> Family {
        Family::of(name, help, FamilyKind::Counter)
    }

    fn of(name: &str, help: &str, kind: FamilyKind) -> Family {
        Family { name: name.to_owned(), help: help.to_owned(), kind, samples: Vec::new() }
    }

    /// With one more sample.
    pub fn with(mut self, labels: &[(&str, &str)], value: f64) -> Family {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let series = match labels.is_empty() {
            true => self.name.clone(),
            false => format!("{}{{{}}}", self.name, labels.join(",")),
        };
        self.samples.push((series, value));
        self
    }

    /// With one more sample, if it is known.
    pub fn with_known(self, value: Option<f64>) -> Family {
        match value {
            Some(value) => self.with(&[], value),
            None => self,
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// A sample, taken apart.
pub struct Series<'s> {
    /// The family's name, for parts of a histogram with `_bucket`, `_sum` or `_count` behind it.
    pub name: &'s str,
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
    /// The sample.
    pub value: f64,
}

impl Family {
    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says, for people.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// What its samples are.
    pub fn kind(&self) -> FamilyKind {
        self.kind
    }

    /// Its samples.
    pub fn series(&self) -> impl Iterator<Item = Series<'_>> {
        self.samples.iter().map(|(series, value)| {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Series { name, labels: labels_of(labels), value: *value }
        })
    }
}

/// Labels as they are written, up to the closing brace.
fn labels_of(mut written: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while let Some((name, quoted)) = written.split_once("=\"") {
        let (value, rest) = unescaped(quoted);
        labels.push((name.to_owned(), value));
        written = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// What is before the closing quotation mark, and what is behind it.
fn unescaped(quoted: &str) -> (String, &str) {
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                escaped => value.extend(escaped.map(|(_, character)| character)),
            },
            _ => value.push(character),
        }
    }
    (value, "")
}

/// What a process says to Prometheus.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Exposition {
    families: Vec<Family>,
}

impl Exposition {
    /// Reads the text form; what is not understood is left out.
    pub fn parse(text: &str) -> Exposition {
        let mut read = Exposition::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                read.families.push(Family::gauge(name, help));
            } else if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            {
                if read.families.last().is_none_or(|family| family.name != name) {
                    read.families.push(Family::gauge(name, ""));
                }
                let kind = match kind {
                    "counter" => FamilyKind::Counter,
                    "histogram" => FamilyKind::Histogram,
                    _ => FamilyKind::Gauge,
                };
                read.families.iter_mut().next_back().into_iter().for_each(|f| f.kind = kind);
            } else if let Some((series, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
                && let Some(family) = read.families.last_mut()
                && series.starts_with(&family.name)
            {
                family.samples.push((series.to_owned(), value));
            }
        }
        read
    }

    /// All families.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// With this family, in place of one of its name.
    pub fn put(&mut self, family: Family) {
        self.families.retain(|known| known.name != family.name);
        if !family.samples.is_empty() {
            self.families.push(family);
        }
    }

    /// What only grows, together with what a process before had counted.
    pub fn after(mut self, former: &Exposition) -> Exposition {
        for old in former.families.iter().filter(|old| old.kind != FamilyKind::Gauge) {
            match self.families.iter_mut().find(|new| new.name == old.name) {
                Some(new) => add(new, old),
                None => self.families.push(old.clone()),
            }
        }
        self
    }
}

/// Adds the samples of `old`. Buckets stay in their order: those of a series that the new process
/// has not counted yet follow.
fn add(new: &mut Family, old: &Family) {
    let at: HashMap<&str, usize> =
        new.samples.iter().enumerate().map(|(i, (series, _))| (&**series, i)).collect();
    let found: Vec<Option<usize>> =
        old.samples.iter().map(|(series, _)| at.get(&**series).copied()).collect();
    for ((series, value), found) in old.samples.iter().zip(found) {
        match found {
            Some(i) => new.samples[i].1 += value,
            None => new.samples.push((series.clone(), *value)),
        }
    }
}

impl Display for Exposition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in &self.families {
            if samples.is_empty() {
                continue;
            }
            let kind = match kind {
                FamilyKind::Counter => "counter",
                FamilyKind::Gauge => "gauge",
                FamilyKind::Histogram => "histogram",
            };
            if !help.is_empty() {
                writeln!(f, "# HELP {name} {help}")?;
            }
            writeln!(f, "# TYPE {name} {kind}")?;
            for (series, value) in samples {
                f.write_str(series)?;
                f.write_char(' ')?;
                writeln!(f, "{value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# HELP eds_a_total A thing\n# TYPE eds_a_total counter\n\
        eds_a_total{table=\"a b\"} 3\neds_a_total{table=\"c\"} 1\n\
        # HELP eds_g A gauge\n# TYPE eds_g gauge\neds_g 7\n\
        # HELP eds_h A histogram\n# TYPE eds_h histogram\n\
        eds_h_bucket{le=\"0.001\"} 1\neds_h_bucket{le=\"+Inf\"} 2\neds_h_sum 0.5\neds_h_count 2\n";

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Exposition::parse(FIRST).to_string(), FIRST);
        let mut made = Exposition::default();
        made.put(Family::gauge("eds_g", "G").with(&[("table", "a\"b\\c\nd")], 0.25));
        assert_eq!(Exposition::parse(&made.to_string()), made);
        let text = "# HELP eds_g G\n# TYPE eds_g gauge\neds_g{table=\"a\\\"b\\\\c\\nd\"} 0.25\n";
        assert_eq!(made.to_string(), text);
        assert_eq!(Exposition::parse("nonsense\n\n# EOF\n 1\n").to_string(), "");
    }

    #[test]
    fn counters_and_histograms_go_on_where_a_process_before_ended_and_gauges_do_not() {
        let second = "# TYPE eds_a_total counter\neds_a_total{table=\"d\"} 1\n\
            eds_a_total{table=\"a b\"} 2\n# TYPE eds_g gauge\neds_g 1\n";
        let all = Exposition::parse(second).after(&Exposition::parse(FIRST));
        let text = all.to_string();
        for line in [
            "eds_a_total{table=\"a b\"} 5",
            "eds_a_total{table=\"c\"} 1",
            "eds_a_total{table=\"d\"} 1",
            "eds_g 1",
            "eds_h_bucket{le=\"+Inf\"} 2",
            "eds_h_sum 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let thrice = Exposition::parse(second).after(&all);
        assert!(thrice.to_string().contains("eds_a_total{table=\"a b\"} 7\n"));
    }

    #[test]
    fn a_family_replaces_one_of_its_name() {
        let mut all = Exposition::parse(FIRST);
        all.put(Family::gauge("eds_g", "Another").with(&[], 2.0));
        assert_eq!(all.to_string().matches("# TYPE eds_g gauge").count(), 1);
        assert!(all.to_string().contains("\neds_g 2\n"));
        all.put(Family::gauge("eds_none", "Not known now").with_known(None));
        assert!(!all.to_string().contains("eds_none"));
    }
}
