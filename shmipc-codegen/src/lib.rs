//! Generates clients and servers for [`shmipc-rpc`] from `.proto` files, in a build script, with nothing but Rust
//! installed.
//!
//! Add this crate to the `[build-dependencies]` and `shmipc-rpc` to the `[dependencies]`; generated code needs
//! nothing else. Then write a `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     shmipc_codegen::compile_protos("proto/helloworld.proto")?;
//!     Ok(())
//! }
//! ```
//!
//! and include what it generates, by the name of the package in the `.proto` file:
//!
//! ```ignore
//! pub mod helloworld {
//!     shmipc_rpc::include_proto!("helloworld");
//! }
//! ```
//!
//! [`configure`] has the options: several files, include directories, one side of a service only, attributes, and
//! everything that prost-build can do.
//!
//! # What is generated
//!
//! Messages and enums are prost's, except that `bytes` fields are `Bytes`: these are received without a copy. For
//!
//! ```proto
//! package helloworld;
//!
//! // Greets people.
//! service Greeter {
//!   // Says hello.
//!   rpc SayHello(HelloRequest) returns (HelloReply);
//! }
//! ```
//!
//! there are three modules besides, none of which holds any logic:
//!
//! | module | holds |
//! |---|---|
//! | `greeter_client` | `GreeterClient`, generic over the service that carries its calls, with an `async fn say_hello(&self, …)` |
//! | `greeter_server` | the trait `Greeter`, to be implemented with an `async fn say_hello(&self, …)`, and `GreeterServer`, which makes a tower service of that |
//! | `greeter_methods` | `SAY_HELLO` and so on: descriptors of the methods, with name, kind, idempotency and messages |
//!
//! `GreeterClient` and `GreeterServer` have `max_request_size` and `max_response_size`, and `send_compressed` and `accept_compressed` for calls
//! over HTTP/2; whatever they are told, nothing is compressed through shared memory.
//!
//! # Kinds of methods
//!
//! | in the `.proto` file | the client takes | and returns | the trait takes | and returns |
//! |---|---|---|---|---|
//! | `rpc F(Q) returns (R)` | `Q` or `Request<Q>` | `Response<R>` | `Request<Q>` | `Response<R>` |
//! | `rpc F(Q) returns (stream R)` | `Q` or `Request<Q>` | `Response<Streaming<R>>` | `Request<Q>` | `Response<impl ResponseStream<R>>` |
//! | `rpc F(stream Q) returns (R)` | a stream of `Q`, or a `Request` of one | `Response<R>` | `Request<Streaming<Q>>` | `Response<R>` |
//! | `rpc F(stream Q) returns (stream R)` | a stream of `Q`, or a `Request` of one | `Response<Streaming<R>>` | `Request<Streaming<Q>>` | `Response<impl ResponseStream<R>>` |
//!
//! All return a `Result`, with `Status` for an error. Methods of the trait are implemented with a plain `async fn`; write
//! `impl ResponseStream<R>` there too, as the compiler warns of a named type in its place. The stream outlives the call
//! of the method, so it must not borrow from `self`: clone what it needs.
//!
//! # On request
//!
//! | option | adds |
//! |---|---|
//! | [`blocking`](Builder::blocking) | `greeter_blocking`: client, trait and server for programs without a runtime |
//! | [`dyn_traits`](Builder::dyn_traits) | `greeter_server::DynGreeter`, the trait with boxed futures, which can be made an object |
//! | [`mocks`](Builder::mocks) | `greeter_mock::MockGreeter`, which answers as a test tells it to |
//! | [`embed_descriptor_set`](Builder::embed_descriptor_set) | `FILE_DESCRIPTOR_SET` in each package, for reflection |
//! | [`use_arc_self`](Builder::use_arc_self) | nothing, but methods of the trait take `self: Arc<Self>` |
//! | [`generate_default_stubs`](Builder::generate_default_stubs) | nothing, but methods of the trait need not be implemented |
//!
//! What blocks has the same methods without `async`, and iterators where there are streams: a client takes whatever can be
//! iterated over for a stream of requests, a trait returns `impl Iterator<Item = Result<R, Status>> + Send + 'static` for a
//! stream of responses. Where both sides stream, the client takes `()`, or a `Request<()>` with metadata, and returns a
//! `blocking::Duplex<Q, R>` to send and receive by.
//!
//! # Names
//!
//! Names follow prost: `SayHello` becomes `say_hello`, `Type` becomes `r#type`, and `Self`, which cannot be escaped,
//! `self_`. A method that would hide a function of the client (`new`, `connect`, `clone`, `max_request_size`,
//! `max_response_size`, `send_compressed`, `accept_compressed`) gets a trailing underscore in client and trait. Names on the wire are those of the `.proto`
//! file, always.
//!
//! `google.protobuf` types are those of prost-types, with plain Rust types for the wrappers (`Bytes` for
//! `BytesValue`) and `()` for `Empty`.
//!
//! # Comments
//!
//! Comments become docs. What rustdoc would misread (indented examples, `List<Foo>`, `[0, 1)`, bare addresses) is
//! escaped, so that neither `cargo doc` nor `cargo test --doc` trips over a `.proto` file.
//!
//! # Errors
//!
//! What is wrong with a `.proto` file is shown with its place, as the failure of the build script:
//!
//! ```text
//! Error: proto/helloworld.proto:9:16: name 'HelloReqest' is not defined
//!   |
//! 9 |   rpc SayHello(HelloReqest) returns (HelloReply);
//!   |                ^^^^^^^^^^^ found here
//! ```
//!
//! # Code that is checked in
//!
//! The program `shmipc-gen`, of this package, does outside of build scripts what these do; its flags are the options of
//! [`Builder`]. With `--check` it tells whether what is there is up to date, as [`Builder::check`] does in a test:
//!
//! ```console
//! $ cargo install shmipc-codegen
//! $ shmipc-gen --out src/generated proto/helloworld.proto
//! $ shmipc-gen --out src/generated --check proto/helloworld.proto
//! ```
//!
//! # Coming from tonic-prost-build
//!
//! Options have the same names and meanings, but for these:
//!
//! | there | here |
//! |---|---|
//! | `codec_path`, `tonic_build::manual` | messages are protobuf, as the runtime encodes them straight into shared memory |
//! | `build_transport` | clients always have a `connect`: the runtime always has a channel |
//! | `emit_package` | names on the wire always have their package: servers route by it |
//! | `proto_path` | [`extern_path`](Builder::extern_path), which generates no messages for what lies elsewhere |
//! | `with_extended_rust_types` | is always so |
//! | `compile_with_config`, `compile_fds_with_config` | all options of prost-build are in [`Builder`]; or call prost-build yourself, with [`Builder::into_service_generator`] |
//! | `service_generator` | [`Builder::into_service_generator`] |
//! | `bytes`, `btree_map`, `disable_comments`, `skip_debug` | take several paths, and replace what was given before, as in prost-build |
//! | `compile_well_known_types` | takes no argument |
//!
//! In the code that is generated, and in yours:
//!
//! | there | here |
//! |---|---|
//! | `GreeterClient::with_interceptor`, `GreeterServer::with_interceptor` | the runtime's `interceptor::InterceptorLayer`, around the channel that `GreeterClient::new` takes, around `GreeterServer`, or around all services by `Server::layer`; for what blocks, that of `blocking::interceptor` |
//! | `GreeterClient::with_origin` | the runtime's `ChannelBuilder::origin`; by default, that is the channel's endpoint |
//! | `max_decoding_message_size`, `max_encoding_message_size` | of a client, `max_response_size` and `max_request_size`; of a server, `max_request_size` and `max_response_size`. Default: 64 MiB each |
//! | `type ListFeaturesStream`, one for each stream of responses | nothing: the method returns `Result<Response<impl ResponseStream<Feature>>, Status>` |
//! | `#[tonic::async_trait]` | nothing: methods are plain `async fn`s |
//! | methods of clients that take `&mut self` | they take `&self` |
//!
//! # `protoc`
//!
//! Is not needed: [protox] reads the files. Where another reader is wanted, there is [`Builder::use_protoc`], and
//! [`Builder::compile_fds`] for a descriptor set that you already have.
//!
//! [`shmipc-rpc`]: https://docs.rs/shmipc-rpc
//! [protox]: https://docs.rs/protox

mod builder;
mod check;
mod diagnostic;
mod docs;
mod error;
mod format;
mod generator;
mod model;
mod names;
mod patterns;
mod read;
mod render;
mod write;

use std::path::Path;

/// Re-exported for [`Builder::also_generate`] and [`Builder::into_service_generator`].
pub use prost_build;
/// Re-exported for [`Builder::compile_fds`].
pub use prost_types;

pub use self::builder::Builder;
pub use self::diagnostic::{Diagnostic, Diagnostics};
pub use self::error::Error;

/// Generates code for one `.proto` file, and what it imports from the same directory, with all defaults.
///
/// The result lies in `OUT_DIR`, in one file per package.
///
/// # Errors
///
/// Returns [`Error`], which says which file is at fault, and where.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// shmipc_codegen::compile_protos("proto/helloworld.proto")?;
/// # Ok(())
/// # }
/// ```
pub fn compile_protos(proto: impl AsRef<Path>) -> Result<(), Error> {
    let proto = proto.as_ref();
    let directory = match proto.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    configure().compile_protos(&[proto], &[directory])
}

/// Generates code for a descriptor set, with all defaults.
///
/// It must hold everything it imports. The result lies in `OUT_DIR`, in one file per package.
///
/// # Errors
///
/// Returns [`Error`], which says what is at fault.
pub fn compile_fds(fds: prost_types::FileDescriptorSet) -> Result<(), Error> {
    configure().compile_fds(fds)
}

/// Starts to configure what is generated. See [`Builder`].
pub fn configure() -> Builder {
    Builder::default()
}
