//! Unknown words with suggestions, and long explanations in one line.

use crate::said;

/// Words with at least this similarity (Jaro-Winkler, 1 is equal) are taken for misspellings of each other:
/// `conections` and `connections` are at 0.98, `size` and `rounds` at 0.47.
const SIMILAR: f64 = 0.8;

/// The error that `word` is no `kind`, with the known word that was probably meant, or else all of them.
pub(super) fn unknown<'a>(kind: &str, word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, &known) {
        Some(nearest) => format!("`{word}` is no {kind}; did you mean `{nearest}`?"),
        None => format!("`{word}` is no {kind}; there are: {}", known.join(", ")),
    }
}

/// The most similar word, if its similarity is sufficient.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let similarity = |it: &str| strsim::jaro_winkler(&word, &it.to_lowercase());
    let best = known.iter().map(|it| (similarity(it), *it)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILAR).then_some(best.1)
}

/// An explanation in one line. If it quotes in further lines what a program said, the line that names an error follows, or
/// else the last one.
pub(super) fn one_line(why: &str) -> String {
    let mut lines = why.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let Some(explanation) = first.strip_suffix("; it said:") else { return first.to_owned() };
    let said: Vec<&str> = lines.filter(|line| *line != said::NOTHING).collect();
    let error = said.iter().find(|line| line.to_lowercase().contains("error"));
    error.or(said.last()).map_or_else(|| explanation.to_owned(), |line| format!("{first} {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_in_one_line_has_the_error() {
        assert_eq!(one_line("no compiler"), "no compiler");
        assert_eq!(
            one_line("it died; it said:\n  Traceback\n  ValueError: x\n  end"),
            "it died; it said: ValueError: x"
        );
        assert_eq!(one_line("it died; it said:\n  one\n  two\n"), "it died; it said: two");
        assert_eq!(one_line(&format!("it died; it said:\n  {}", said::NOTHING)), "it died");
    }

    #[test]
    fn a_slip_is_understood_and_nonsense_is_not() {
        let known = ["connections", "size", "depth", "same-within"];
        assert_eq!(nearest("conections", &known), Some("connections"));
        assert_eq!(nearest("same_within", &known), Some("same-within"));
        assert_eq!(nearest("Depht", &known), Some("depth"));
        assert_eq!(nearest("volume", &known), None);
        assert_eq!(
            unknown("key", "volume", known),
            "`volume` is no key; there are: connections, size, depth, same-within"
        );
    }
}
