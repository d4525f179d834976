// A service that has no name is added to a server.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use shmipc_rpc::server::Service;
use shmipc_rpc::{Body, Server, http};

#[derive(Clone)]
struct Unnamed;

impl Service<http::Request<Body>> for Unnamed {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Ok(http::Response::new(Body::empty())))
    }
}

fn main() {
    let _ = Server::builder().add_service(Unnamed);
}
