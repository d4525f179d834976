//! Comments of a `.proto` file, made fit for rustdoc.
//!
//! A comment was written for people, not for rustdoc, which reads it as Markdown: it would compile indented blocks
//! as Rust, take `List<Foo>` for HTML and `[foo]` for a link, and complain about each. What is meant stays; what
//! would be misread is escaped.
//!
//! Two steps, because prost-build does the second by itself for messages: [`sanitize`] works on a whole comment and
//! changes nothing when applied again; [`lines`] also turns addresses into links.

/// What a list item may be indented by, beyond its own text, before it is a code block.
const CODE_INDENT: usize = 4;

/// Makes the text of a comment fit for rustdoc, except that addresses (`https://…`) are left bare.
///
/// Idempotent: the result of sanitising a sanitised comment is the same comment.
pub(crate) fn sanitize(comment: &str) -> String {
    let mut out = Vec::new();
    let mut prose = Vec::new();
    for block in blocks(&dedent(comment)) {
        match block {
            Block::Prose(line) => prose.push(line),
            Block::Code(line) => {
                flush_prose(&mut prose, &mut out);
                out.push(line);
            }
        }
    }
    flush_prose(&mut prose, &mut out);
    out.join("\n")
}

/// The doc lines for a comment, without the space after `///`. Empty if there is nothing but white space.
pub(crate) fn lines(comment: &str) -> Vec<String> {
    let text = sanitize(comment);
    let mut open: Option<&str> = None;
    let mut out = Vec::new();
    for line in text.lines() {
        match open {
            Some(fence) => {
                out.push(line.to_owned());
                if closes(line, fence) {
                    open = None;
                }
            }
            None => {
                open = fence_of(line);
                out.push(if open.is_some() {
                    line.to_owned()
                } else {
                    link_addresses(line)
                });
            }
        }
    }
    out
}

/// A line, and whether Markdown is read in it.
enum Block {
    Prose(String),
    /// Inside of a code block, or one of its fences.
    Code(String),
}

/// Splits a comment into lines without common indentation, trailing space, or characters that rustc refuses.
fn dedent(comment: &str) -> Vec<String> {
    let lines: Vec<String> = comment
        .lines()
        .map(|line| line.chars().filter(|c| !is_refused(*c)).collect::<String>())
        .map(|line| line.replace('\t', "    ").trim_end().to_owned())
        .collect();
    let indent = lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| indent_of(line))
        .min()
        .unwrap_or(0);
    let first = lines
        .iter()
        .position(|line| !line.is_empty())
        .unwrap_or(lines.len());
    let end = lines
        .iter()
        .rposition(|line| !line.is_empty())
        .map_or(first, |last| last + 1);
    lines[first..end]
        .iter()
        .map(|line| line.get(indent..).unwrap_or_default().to_owned())
        .collect()
}

/// Whether rustc refuses `c` in a doc comment: stray carriage returns, and marks that change the direction of text.
fn is_refused(c: char) -> bool {
    matches!(c, '\r' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Marks the code in a comment, and fences what is code only by its indentation.
fn blocks(lines: &[String]) -> Vec<Block> {
    let mut out = Vec::new();
    let mut after_blank = true;
    let mut list_offset = 0;
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        let indent = indent_of(line);
        if let Some(fence) = fence_of(line) {
            index = push_fenced(lines, index, fence, &mut out);
            after_blank = false;
            continue;
        }
        if after_blank && !line.is_empty() && indent < list_offset {
            list_offset = 0;
        }
        if after_blank && list_offset + CODE_INDENT <= indent {
            index = push_indented(lines, index, list_offset, &mut out);
            continue;
        }
        if let Some(marker) = list_marker_len(line) {
            list_offset = indent + marker;
        }
        after_blank = line.is_empty();
        out.push(Block::Prose(line.clone()));
        index += 1;
    }
    out
}

/// Copies the fenced block that begins at `start`, closing it if its author did not. Returns where it ends.
fn push_fenced(lines: &[String], start: usize, fence: &str, out: &mut Vec<Block>) -> usize {
    let opening = &lines[start];
    let indent = " ".repeat(indent_of(opening));
    let info = opening.trim_start().trim_start_matches(&fence[..1]).trim();
    let info = if is_rust(info) { "text" } else { info };
    out.push(Block::Code(format!("{indent}{fence}{info}")));
    for (index, line) in lines.iter().enumerate().skip(start + 1) {
        out.push(Block::Code(line.clone()));
        if closes(line, fence) {
            return index + 1;
        }
    }
    out.push(Block::Code(format!("{indent}{fence}")));
    lines.len()
}

/// Copies the block that begins at `start` and is code by its indentation, with fences. Returns where it ends.
fn push_indented(
    lines: &[String],
    start: usize,
    list_offset: usize,
    out: &mut Vec<Block>,
) -> usize {
    let threshold = list_offset + CODE_INDENT;
    let is_code = |line: &String| line.is_empty() || threshold <= indent_of(line);
    let len = lines[start..]
        .iter()
        .take_while(|line| is_code(line))
        .count();
    let blank = lines[start..start + len]
        .iter()
        .rev()
        .take_while(|line| line.is_empty())
        .count();
    let end = start + len - blank;
    let indent = " ".repeat(list_offset);
    out.push(Block::Code(format!("{indent}```text")));
    for line in &lines[start..end] {
        out.push(Block::Code(
            line.get(CODE_INDENT..).unwrap_or_default().to_owned(),
        ));
    }
    out.push(Block::Code(format!("{indent}```")));
    end
}

/// The fence a line begins with, if it does: three or more backticks or tildes.
fn fence_of(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let mark = text
        .chars()
        .next()
        .filter(|mark| matches!(mark, '`' | '~'))?;
    let len = text.chars().take_while(|c| *c == mark).count();
    let rest = &text[len..];
    // Backticks after the fence make it a code span: ```so```.
    (3 <= len && !(mark == '`' && rest.contains('`'))).then(|| &text[..len])
}

/// Whether `line` ends the block that `fence` began.
fn closes(line: &str, fence: &str) -> bool {
    fence_of(line).is_some_and(|end| end.starts_with(fence) && line.trim() == end)
}

/// Whether rustdoc would compile a block of this kind.
fn is_rust(info: &str) -> bool {
    const RUST: [&str; 7] = [
        "compile_fail",
        "ignore",
        "no_run",
        "rust",
        "rs",
        "should_panic",
        "test_harness",
    ];
    let first = info.split([',', ' ', '{']).next().unwrap_or_default();
    first.is_empty() || RUST.contains(&first) || first.starts_with("edition")
}

/// The length of the marker of a list item, with the space after it.
fn list_marker_len(line: &str) -> Option<usize> {
    let text = line.trim_start();
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let mark = match digits {
        0 => text.starts_with(['-', '*', '+']),
        1..=9 => text[digits..].starts_with(['.', ')']),
        _ => false,
    };
    (mark && text[digits + 1..].starts_with(' ')).then_some(digits + 2)
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Escapes the prose gathered so far. Together, because a code span may go on over the end of a line.
fn flush_prose(prose: &mut Vec<String>, out: &mut Vec<String>) {
    if !prose.is_empty() {
        out.extend(escape(&prose.join("\n")).split('\n').map(str::to_owned));
        prose.clear();
    }
}

/// Escapes what rustdoc would take for a link or for HTML, outside of code spans.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '\\' => next.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            '`' => match code_span_len(rest) {
                Some(len) => len,
                None => escaped_run(&mut out, &mut rest, '`'),
            },
            '[' => link_len(rest).unwrap_or_else(|| escaped(&mut out)),
            ']' => escaped(&mut out),
            '<' => match bracketed_address(rest) {
                Some(address) => {
                    out.push_str(address);
                    rest = &rest[address.len() + 2..];
                    continue;
                }
                None if opens_html(rest) => escaped(&mut out),
                None => 1,
            },
            _ => address_len(rest, out.chars().next_back()).unwrap_or(next.len_utf8()),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// Writes the backslash for the character that follows.
fn escaped(out: &mut String) -> usize {
    out.push('\\');
    1
}

/// Escapes all but the last of a run of `mark`, which is left to the caller.
fn escaped_run(out: &mut String, rest: &mut &str, mark: char) -> usize {
    let run = rest.chars().take_while(|c| *c == mark).count();
    for _ in 1..run {
        out.push('\\');
        out.push(mark);
    }
    *rest = &rest[run - 1..];
    escaped(out)
}

/// The length of the code span that `text` begins with: up to as many backticks, in the same paragraph.
fn code_span_len(text: &str) -> Option<usize> {
    let open = text.chars().take_while(|c| *c == '`').count();
    let paragraph = text.find("\n\n").map_or(text, |end| &text[..end]);
    let mut at = open;
    while let Some(found) = paragraph[at..].find('`') {
        let start = at + found;
        let len = paragraph[start..].chars().take_while(|c| *c == '`').count();
        at = start + len;
        if len == open {
            return Some(at);
        }
    }
    None
}

/// The length of the link that `text` begins with, if its target is an address: `[text](https://…)`.
fn link_len(text: &str) -> Option<usize> {
    let close = text.find(']')?;
    let target = text[close + 1..].strip_prefix('(')?;
    let end = target.find([')', '\n'])?;
    let address = target[..end].trim_start_matches('<');
    let plain = !text[1..close].contains(['[', '<', '`', '\\', '\n']);
    (plain && target[end..].starts_with(')') && is_address(address))
        .then_some(close + 1 + 1 + end + 1)
}

/// The address in angle brackets that `text` begins with: `<https://…>`.
fn bracketed_address(text: &str) -> Option<&str> {
    let inner = &text[1..text.find('>')?];
    (is_address(inner) && !inner.contains(char::is_whitespace)).then_some(inner)
}

fn is_address(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

fn opens_html(text: &str) -> bool {
    text[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'))
}

/// The length of the address that `text` begins with, if `before` does not make it the middle of a word.
fn address_len(text: &str, before: Option<char>) -> Option<usize> {
    if !is_address(text) || before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let end = text.find(|c: char| {
        c.is_whitespace() || matches!(c, '<' | '>' | '`' | ')' | '[' | ']' | '\\' | '"')
    });
    let address =
        text[..end.unwrap_or(text.len())].trim_end_matches(['.', ',', ';', ':', '!', '?', '\'']);
    let host = address
        .split_once("//")
        .is_some_and(|(_, host)| !host.is_empty());
    host.then_some(address.len())
}

/// Puts bare addresses between angle brackets, which makes them links.
fn link_addresses(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '`' => code_span_len(rest).unwrap_or(1),
            '[' => link_len(rest).unwrap_or(1),
            '\\' => next.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => match address_len(rest, out.chars().next_back()) {
                Some(len) => {
                    out.push('<');
                    out.push_str(&rest[..len]);
                    out.push('>');
                    rest = &rest[len..];
                    continue;
                }
                None => next.len_utf8(),
            },
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(comment: &str, expected: &[&str]) {
        let sanitized = sanitize(comment);
        assert_eq!(
            sanitize(&sanitized),
            sanitized,
            "sanitising twice must be the same as once"
        );
        assert_eq!(lines(comment), expected);
    }

    #[test]
    fn plain_text_loses_only_its_margin() {
        check(
            " Says hello.\n\n Twice,\n   if asked.\n",
            &["Says hello.", "", "Twice,", "  if asked."],
        );
        check("  \n\n", &[]);
        check("", &[]);
    }

    #[test]
    fn indented_blocks_are_fenced_as_text() {
        check(
            " For example:\n\n     let x = 1;\n\n       let y;\n\n Done.",
            &[
                "For example:",
                "",
                "```text",
                "let x = 1;",
                "",
                "  let y;",
                "```",
                "",
                "Done.",
            ],
        );
    }

    #[test]
    fn a_continued_paragraph_is_not_code() {
        check(
            " One line\n      and its rest.",
            &["One line", "     and its rest."],
        );
    }

    #[test]
    fn lists_may_be_indented() {
        check(
            " - one\n\n   more of one\n\n       code in one\n - two",
            &[
                "- one",
                "",
                "  more of one",
                "",
                "  ```text",
                "  code in one",
                "  ```",
                "- two",
            ],
        );
        check(
            " 10. ten\n\n     more of ten",
            &["10. ten", "", "    more of ten"],
        );
    }

    #[test]
    fn fences_that_rustdoc_would_compile_become_text() {
        check(" ```\n foo()\n ```", &["```text", "foo()", "```"]);
        check(
            " ```rust,no_run\n foo()\n ```",
            &["```text", "foo()", "```"],
        );
        check(
            " ```json\n {\"a\": [1]}\n ```",
            &["```json", "{\"a\": [1]}", "```"],
        );
        check(
            " ~~~~\n ```\n ~~~~\n a<b>",
            &["~~~~text", "```", "~~~~", "a\\<b>"],
        );
    }

    #[test]
    fn an_open_fence_is_closed() {
        check(" ```text\n foo", &["```text", "foo", "```"]);
    }

    #[test]
    fn addresses_become_links() {
        check(
            " See https://example.com/a_b?c=d. Or <http://example.com>, (https://x.org)!",
            &["See <https://example.com/a_b?c=d>. Or <http://example.com>, (<https://x.org>)!"],
        );
        check(
            " `https://example.com` xhttps://",
            &["`https://example.com` xhttps://"],
        );
    }

    #[test]
    fn brackets_that_are_no_links_are_escaped() {
        check(
            " Range [a, b), see [Foo] and [Bar](Baz).",
            &["Range \\[a, b), see \\[Foo\\] and \\[Bar\\](Baz)."],
        );
        check(
            " [the docs](https://example.com/x)",
            &["[the docs](https://example.com/x)"],
        );
        check(" `a[0]` and \\[kept\\]", &["`a[0]` and \\[kept\\]"]);
    }

    #[test]
    fn html_is_escaped() {
        check(
            " A List<Foo>, <b>bold</b>, <!-- no -->, 1 < 2, `Vec<u8>`.",
            &["A List\\<Foo>, \\<b>bold\\</b>, \\<!-- no -->, 1 < 2, `Vec<u8>`."],
        );
    }

    #[test]
    fn code_spans_may_cross_lines_but_not_paragraphs() {
        check(" `a\n <b>` and ``c`<d>``", &["`a", "<b>` and ``c`<d>``"]);
        check(" a ` b\n\n <c> ` d", &["a \\` b", "", "\\<c> \\` d"]);
    }

    #[test]
    fn characters_that_rustc_refuses_are_dropped() {
        check(" a\r\n b\u{202E}c\td", &["a", "bc    d"]);
    }

    #[test]
    fn any_text_is_survived() {
        for text in [
            "`",
            "[",
            "<",
            "\\",
            "](",
            "[](",
            "```",
            "~~~\n",
            "<http://",
            "http://",
            "é`ü[ß<ñ",
            "- ",
            "1. ",
            "\\é",
        ] {
            let once = sanitize(text);
            assert_eq!(sanitize(&once), once, "{text:?}");
            let _ = lines(text);
        }
    }
}
