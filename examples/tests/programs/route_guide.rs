//! The four kinds of call, as two processes.

use std::process::Command;

use crate::process::run;

const EXPECTED: &str = "\
at 49.67200° N 7.90664° W: Ferry Stage
at 49.00000° N 9.00000° W: NOT_FOUND: there is nothing with a name
in the middle of the island:
  49.63124° N 7.83415° W  Bracken Common
  49.62170° N 7.88629° W  Brewer's Yard
  49.61867° N 7.86163° W  Reservoir Dam
  49.61650° N 7.85092° W  Curfew Tower
  49.61444° N 7.82519° W  Chestnut Square
  49.60905° N 7.82346° W  Wind Pump
  49.60781° N 7.84179° W  Fern Gill
  49.60773° N 7.83300° W  Beacon Hill
  49.60655° N 7.87339° W  Cooper's Bridge
  49.60246° N 7.83823° W  Larch Gate
a route of 73 points, 37 of which have a name: 189105 m
notes from those who were there before:
  49.67200° N 7.90664° W  the last boat leaves at nine
  49.61383° N 7.77624° W  the door sticks
  49.67200° N 7.90664° W  the last boat leaves at nine
  49.67200° N 7.90664° W  on Sundays at eight
";

#[test]
fn a_call_of_each_kind_is_made() {
    let (said, complaints) = run(&mut Command::new(env!("CARGO_BIN_EXE_route_guide")));
    assert_eq!(complaints, "");
    // Each process reads the same places. What is expected was computed apart from them, with another formula.
    assert_eq!(said, EXPECTED);
}
