//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt as _};
use shmipc_codegen::Builder;

use crate::options::{OPTIONS, Setting};

/// What is asked for.
pub(crate) enum Command {
    Generate(Box<Arguments>),
    Help,
    Version,
}

/// What to generate, and from what.
pub(crate) struct Arguments {
    pub(crate) builder: Builder,
    pub(crate) protos: Vec<PathBuf>,
    pub(crate) includes: Vec<PathBuf>,
}

const USAGE: &str = "\
Generates shmipc-rpc clients and servers from .proto files, for those who check the result in.

Usage: shmipc-gen [OPTIONS] --out DIR PROTO...

PATH names what an option applies to: `.` everything, `.pkg.Message` what lies there, `Message.field` what ends so.
";

/// Options that are not those of the builder, with what they mean.
const OWN: [(&str, &str); 6] = [
    (
        "-I, --include DIR",
        "where imports are looked for; may be repeated. Default: where PROTO... lie",
    ),
    ("-o, --out DIR", "where to write to; must exist"),
    (
        "    --check",
        "write nothing; fail if what would be written is not there",
    ),
    (
        "    --descriptor-set-in FILE",
        "read a descriptor set rather than PROTO...",
    ),
    ("-h, --help", "print this"),
    ("-V, --version", "print the version"),
];

/// Where explanations begin.
const COLUMN: usize = 40;

pub(crate) fn help() -> String {
    let mut text = format!("{USAGE}\nOptions:\n");
    let own = OWN.map(|(names, meaning)| (format!("  {names}"), meaning));
    let of_builder = OPTIONS.iter().map(|option| {
        let value = option.setting.value();
        (format!("      --{}{value}", option.name), option.meaning)
    });
    for (names, meaning) in own.into_iter().chain(of_builder) {
        // Writing to a string cannot fail.
        let _ = if names.len() < COLUMN {
            writeln!(text, "{names:COLUMN$}{meaning}")
        } else {
            writeln!(text, "{names}\n{:COLUMN$}{meaning}", "")
        };
    }
    text
}

/// Reads the command line.
pub(crate) fn parse(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut builder = shmipc_codegen::configure().emit_rerun_if_changed(false);
    let (mut protos, mut includes) = (Vec::new(), Vec::new());
    // Options of the builder that replace what they were given before, with all that they were given.
    let mut lists: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let (mut has_out, mut has_input_set, mut has_output_set) = (false, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(proto) => protos.push(PathBuf::from(proto)),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Short('V') | Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('I') | Arg::Long("include") => includes.push(parser.value()?.into()),
            Arg::Short('o') | Arg::Long("out") => {
                builder = builder.out_dir(parser.value()?);
                has_out = true;
            }
            Arg::Long("check") => builder = builder.check(true),
            Arg::Long("descriptor-set-in") => {
                builder = builder
                    .file_descriptor_set_path(parser.value()?)
                    .skip_protoc_run();
                has_input_set = true;
            }
            Arg::Long(name) => {
                let Some(index) = OPTIONS.iter().position(|option| option.name == name) else {
                    return Err(argument.unexpected());
                };
                has_output_set |= name == "descriptor-set-out";
                builder = match OPTIONS[index].setting {
                    Setting::Paths(_) => {
                        let paths = lists.entry(index).or_default();
                        paths.push(parser.value()?.string()?);
                        builder
                    }
                    ref once => apply(once, builder, &mut parser)?,
                };
            }
            Arg::Short(_) => return Err(argument.unexpected()),
        }
    }
    for (index, paths) in lists {
        if let Setting::Paths(apply) = OPTIONS[index].setting {
            builder = apply(builder, paths);
        }
    }
    if !has_out {
        return Err("say where to write to, with `--out DIR`".into());
    }
    if has_input_set && has_output_set {
        return Err("`--descriptor-set-in` and `--descriptor-set-out` exclude each other".into());
    }
    if protos.is_empty() != has_input_set {
        return Err(match has_input_set {
            true => "`--descriptor-set-in` takes the place of .proto files".into(),
            false => "say what to read: a .proto file, or several".into(),
        });
    }
    Ok(Command::Generate(Box::new(Arguments {
        builder,
        protos,
        includes,
    })))
}

/// Applies a setting that needs to see no others, with the value that follows.
fn apply(
    setting: &Setting,
    builder: Builder,
    parser: &mut Parser,
) -> Result<Builder, lexopt::Error> {
    Ok(match setting {
        Setting::Flag(apply) => apply(builder),
        Setting::Text(_, apply) => apply(builder, parser.value()?.string()?),
        Setting::File(_, apply) => apply(builder, parser.value()?.into()),
        Setting::Pair(_, apply) => {
            let (key, value) = pair(parser.value()?)?;
            apply(builder, key, value)
        }
        Setting::Paths(apply) => apply(builder, vec![parser.value()?.string()?]),
    })
}

/// Takes `KEY=VALUE` apart.
fn pair(value: OsString) -> Result<(String, String), lexopt::Error> {
    let text = value.string()?;
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!("`{text}` has no `=`").into()),
    }
}
