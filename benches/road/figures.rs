//! Figures by name, with what they should reach.

use std::fmt;

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    target: Option<Target>,
}

/// Figures in the order they are printed.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// A figure that is what it is.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: f64) {
        self.add(name.into(), value, None);
    }

    pub(crate) fn at_most(&mut self, name: impl Into<String>, value: f64, most: f64) {
        self.add(name.into(), value, Some(Target::AtMost(most)));
    }

    pub(crate) fn at_least(&mut self, name: impl Into<String>, value: f64, least: f64) {
        self.add(name.into(), value, Some(Target::AtLeast(least)));
    }

    fn add(&mut self, name: String, value: f64, target: Option<Target>) {
        self.0.push(Figure {
            name,
            value,
            target,
        });
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|figure| figure.name == name);
        found.unwrap_or_else(|| panic!("no figure {name}")).value
    }

    /// A line a figure; those that should reach something and do not are marked.
    pub(crate) fn print(&self) {
        for Figure {
            name,
            value,
            target,
        } in &self.0
        {
            let target = target.map_or_else(String::new, |target| {
                let mark = if target.holds(*value) { " " } else { "!" };
                format!("{mark} {target}")
            });
            println!("{name:>36}  {value:>12.3}  {target}");
        }
    }

    /// All of them as one JSON object, by name.
    pub(crate) fn json(&self) -> serde_json::Value {
        let figures = self.0.iter().map(|figure| {
            let rounded = (figure.value * 1000.0).round() / 1000.0;
            (figure.name.clone(), serde_json::json!(rounded))
        });
        serde_json::Value::Object(figures.collect())
    }
}
