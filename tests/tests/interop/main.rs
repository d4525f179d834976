//! The public interoperability test cases of gRPC, over every way in which a client of these services can reach a server.
//!
//! A case is a function over a [`Link`](links::Link): a client, whatever it is made of, and what its server is doing. A way is a function that
//! makes such a link; to add one, write it in `links.rs` and name it below.
//!
//! Those with compression (`client_compressed_*`, `server_compressed_*`) run where there is any, which is over HTTP/2 between our own sides:
//! others do not choose by message, and through shared memory nothing is compressed.
//!
//! Left out are the cases for what is not there: those with
//! credentials (`compute_engine_creds`, `jwt_token_creds`, `oauth2_auth_token`, `per_rpc_creds` and their like), with a cache between
//! client and server (`cacheable_unary`; the method itself is called by `large_unary`), and with the load balancers of others.

mod cases;
mod client;
mod client_of_threads;
mod compression;
mod echo;
mod links;
mod our_service;
mod protos;
mod service_of_threads;
mod tonic_service;

/// Makes one test of each of these cases for one link. Links and cases are functions in these modules.
macro_rules! tests_of_cases {
    ($links:ident::$link:ident, $cases:ident: $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let link = crate::$links::$link().await;
                tests::in_time(stringify!($case), crate::$cases::$case(&link)).await;
            }
        )*
    };
}
use tests_of_cases;

/// Makes one test for a link of each case in which no call is given up.
macro_rules! run_cases_to_their_end_over {
    ($link:ident) => {
        crate::tests_of_cases! {
            links::$link, cases:
            empty_unary,
            large_unary,
            client_streaming,
            server_streaming,
            ping_pong,
            empty_stream,
            half_duplex,
            custom_metadata_of_a_unary_call,
            custom_metadata_of_a_full_duplex_call,
            status_code_and_message_of_a_unary_call,
            status_code_and_message_of_a_full_duplex_call,
            special_status_message,
            unimplemented_method,
            unimplemented_service,
            timeout_on_sleeping_server,
            concurrent_large_unary,
            rpc_soak,
        }
    };
}
use run_cases_to_their_end_over;

/// Makes one test of each case for each link, except where a call is given up: a thread that waits for an answer has nobody to tell it that.
macro_rules! run_cases_of_threads_over {
    ($($link:ident,)*) => {
        $(mod $link {
            crate::run_cases_to_their_end_over!($link);
        })*
    };
}

run_cases_of_threads_over! {
    client_of_threads_over_shared_memory,
    client_of_threads_over_shmipc_v4,
    client_of_threads_over_shmipc_v3,
    client_of_threads_over_shmipc_v2,
}

/// Makes one test of each case for each link.
macro_rules! run_all_cases_over {
    ($($link:ident,)*) => {
        $(mod $link {
            crate::run_cases_to_their_end_over!($link);
            crate::tests_of_cases! {
                links::$link, cases:
                cancel_after_begin,
                cancel_after_first_response,
            }
        })*
    };
}

run_all_cases_over! {
    shared_memory,
    shared_memory_behind_a_layer,
    shmipc_v4,
    shmipc_v3,
    shmipc_v2,
    http2,
    http2_over_a_unix_socket,
    tls,
    managed_shared_memory,
    managed_http2,
    managed_tonic_client,
    server_of_threads_over_shared_memory,
    server_of_threads_over_shmipc_v4,
    server_of_threads_over_shmipc_v3,
    server_of_threads_over_shmipc_v2,
    in_process,
    tonic_client,
    tonic_server,
    tonic_on_both_sides,
    tonic_client_over_http2,
    tonic_server_over_http2,
}

/// Makes a test for each link on which messages are compressed, of each case that is about that.
macro_rules! run_cases_of_compression_over {
    ($($link:ident,)*) => {
        $(mod $link {
            crate::tests_of_cases! {
                compression::$link, compression:
                client_compressed_unary,
                server_compressed_unary,
                client_compressed_streaming,
                server_compressed_streaming,
            }
        })*
    };
}

run_cases_of_compression_over! {
    http2_by_gzip,
    http2_by_deflate,
    http2_over_a_unix_socket_by_zstd,
    http2_by_rules,
}
