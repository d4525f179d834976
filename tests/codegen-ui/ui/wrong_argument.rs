// A client is given another message than the method takes.

mod helloworld {
    include!("../../../shmipc-codegen/tests/golden/helloworld/helloworld.rs");
}

use helloworld::HelloReply;
use helloworld::greeter_client::GreeterClient;

async fn call(client: GreeterClient) {
    let _ = client.say_hello(HelloReply::default()).await;
}

fn main() {}
