//! Asks the server for a greeting: `greeter_client [NAME [SOCKET]]`.

use std::{env, error::Error};

use examples::helloworld::{HelloRequest, greeter_client::GreeterClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = env::args().nth(1).unwrap_or("world".to_owned());
    let socket = env::args().nth(2).unwrap_or("@greeter".to_owned());
    let client = GreeterClient::connect(socket).await?;
    let reply = client.say_hello(HelloRequest { name }).await?;
    println!("{}", reply.into_inner().message);
    Ok(())
}
