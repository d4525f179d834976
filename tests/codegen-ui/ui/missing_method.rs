// A trait is implemented without one of its methods.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::greeter_server::Greeter;

struct Service;

impl Greeter for Service {}

fn main() {}
