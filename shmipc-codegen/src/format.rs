//! How generated files look.

/// Formats the source of a file, with a blank line between items that have some extent.
///
/// # Errors
///
/// Returns what the parser says if `source` is no Rust.
pub(crate) fn format(source: &str) -> Result<String, syn::Error> {
    let file = syn::parse_file(source)?;
    Ok(separate_items(&prettyplease::unparse(&file)))
}

/// Puts a blank line where one item ends and another of the same depth begins.
fn separate_items(formatted: &str) -> String {
    let mut out = String::with_capacity(formatted.len() + formatted.len() / 16);
    let mut previous = "";
    for line in formatted.lines() {
        // An item whose last line lies deeper is continued from the line before.
        if indent_of(line) <= indent_of(previous)
            && ends_item(previous)
            && begins_item(line)
            && !alike(previous, line)
        {
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
        previous = line;
    }
    out
}

fn ends_item(line: &str) -> bool {
    (line.ends_with('}') || line.ends_with(';')) && !line.trim_start().starts_with("//")
}

fn begins_item(line: &str) -> bool {
    const BEGINNINGS: [&str; 14] = [
        "///", "#[", "pub ", "impl ", "impl<", "mod ", "fn ", "async ", "unsafe ", "trait ",
        "struct ", "enum ", "const ", "type ",
    ];
    let text = line.trim_start();
    BEGINNINGS
        .iter()
        .any(|beginning| text.starts_with(beginning))
}

/// Whether two lines are items of the same kind without docs, such as the types of an `impl`.
fn alike(previous: &str, line: &str) -> bool {
    let kind = |line: &str| line.split_whitespace().next().map(str::to_owned);
    previous.ends_with(';') && kind(previous) == kind(line)
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_set_apart_and_neighbours_of_a_kind_are_not() {
        let source = "struct A; impl X for A { type B = u8; type C = u8; const D: u8 = 1; fn e() {} /// F {}\n/// and on.\nfn f() { let a = 1; g(); } }";
        let expected = "\
struct A;

impl X for A {
    type B = u8;
    type C = u8;

    const D: u8 = 1;

    fn e() {}

    /// F {}
    /// and on.
    fn f() {
        let a = 1;
        g();
    }
}
";
        assert_eq!(format(source).unwrap(), expected);
    }

    #[test]
    fn an_item_of_several_lines_ends_with_the_last() {
        let source = format!(
            "/// A.\nconst A: X = X::{long}({long}).{long}();\n/// B.\nconst B: X = X::b();",
            long = "x".repeat(50)
        );
        let formatted = format(&source).unwrap();
        assert!(formatted.contains("();\n\n/// B.\n"), "{formatted}");
    }

    #[test]
    fn what_is_not_rust_is_an_error() {
        assert!(format("struct {").is_err());
    }
}
