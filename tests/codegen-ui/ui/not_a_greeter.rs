// A server is made of something that does not implement the trait.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::greeter_server::GreeterServer;

struct Service;

fn main() {
    let _ = GreeterServer::new(Service);
}
