//! Servers and clients in one process know nothing of each other.

use shmipc_rpc::{Channel, Code, client::Caller};
use shmipc_transport::Listener;
use tests::{
    alone,
    echo::Place,
    process::Holdings,
    service::{Named, ask},
};
use tokio::task::JoinHandle;

const NAMES: [&str; 2] = ["one", "two"];

fn serve(name: &str, place: &Place) -> JoinHandle<()> {
    let listener = Listener::bind(place.path()).unwrap();
    let serving = Named::server(name).serve_with_listener(listener);
    tokio::spawn(async move { serving.await.unwrap() })
}

#[test]
fn two_servers_and_ten_clients_do_not_meet() {
    alone(async {
        let before = Holdings::count();
        let places = [Place::new(), Place::new()];
        let [one, two] = [0, 1].map(|i| serve(NAMES[i], &places[i]));
        let mut clients = Vec::new();
        for i in 0..10 {
            let channel = Channel::connect(places[i % 2].path()).await.unwrap();
            clients.push((NAMES[i % 2], Caller::new(channel)));
        }
        let calling = clients.clone().into_iter().map(|(name, caller)| {
            tokio::spawn(async move {
                for len in [0, 64, 3000, 100_000].repeat(25) {
                    assert_eq!(ask(&caller, vec![7; len]).await.unwrap(), name);
                }
            })
        });
        for call in calling.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        // The end of a client is nothing to the others, nor is that of a server to the other's clients.
        drop(clients.pop());
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
        for (name, caller) in &clients {
            match *name {
                // Its sessions end by and by.
                "one" => while ask(caller, "gone?").await != Err(Code::Unavailable) {},
                _ => assert_eq!(ask(caller, "there?").await.unwrap(), "two"),
            }
        }
        two.abort();
        assert!(two.await.unwrap_err().is_cancelled());
        drop(clients);
        before.are_back("all are gone").await;
    });
}
