//! Rust names for what a `.proto` file names.
//!
//! Types, functions and modules follow prost-build's conventions, so that a service and the messages around it look
//! alike.

use heck::{ToSnakeCase, ToUpperCamelCase};

/// Names that a generated client uses for itself.
///
/// A method of one of these names gets a trailing underscore, in the client and in the trait: one name per method is
/// easier to remember than two. `clone` is among them because an inherent method hides that of [`Clone`].
const USED_BY_CLIENT: [&str; 7] = [
    "accept_compressed",
    "clone",
    "connect",
    "max_request_size",
    "max_response_size",
    "new",
    "send_compressed",
];

/// The items generated for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceNames {
    /// `Greeter`, the trait a server implements.
    pub(crate) service: String,
    /// `GreeterClient`.
    pub(crate) client: String,
    /// `GreeterServer`.
    pub(crate) server: String,
    /// `greeter_client`.
    pub(crate) client_module: String,
    /// `greeter_server`.
    pub(crate) server_module: String,
    /// `DynGreeter`, the trait's twin that can be made an object.
    pub(crate) twin: String,
    /// `MockGreeter`.
    pub(crate) mock: String,
    /// `greeter_methods`.
    pub(crate) methods_module: String,
    /// `greeter_blocking`.
    pub(crate) blocking_module: String,
    /// `greeter_mock`.
    pub(crate) mock_module: String,
}

impl ServiceNames {
    /// Names the items for the service called `proto_name` in the `.proto` file and `rust_name` by prost-build, which
    /// has seen to keywords.
    pub(crate) fn new(proto_name: &str, rust_name: &str) -> Self {
        let bare = proto_name.to_upper_camel_case();
        let camel = with_letter_first(bare.clone());
        let snake = with_letter_first(proto_name.to_snake_case());
        Self {
            service: rust_name.to_owned(),
            client: format!("{camel}Client"),
            server: format!("{camel}Server"),
            client_module: format!("{snake}_client"),
            server_module: format!("{snake}_server"),
            twin: format!("Dyn{bare}"),
            mock: format!("Mock{bare}"),
            methods_module: format!("{snake}_methods"),
            blocking_module: format!("{snake}_blocking"),
            mock_module: format!("{snake}_mock"),
        }
    }

    /// The modules that there are in any case. They share a namespace with the modules of nested messages.
    pub(crate) fn modules(&self) -> [&str; 3] {
        [
            &self.client_module,
            &self.server_module,
            &self.methods_module,
        ]
    }
}

/// The items generated for one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodNames {
    /// `say_hello`, in the client and in the trait. May be a raw identifier.
    pub(crate) function: String,
    /// `SAY_HELLO`, the constant that describes the method.
    pub(crate) constant: String,
    /// `on_say_hello`, by which a mock is told what to answer.
    pub(crate) setter: String,
}

impl MethodNames {
    /// Names the items for the method that prost-build calls `rust_name`.
    pub(crate) fn new(rust_name: &str) -> Self {
        let function = if USED_BY_CLIENT.contains(&rust_name) {
            format!("{rust_name}_")
        } else {
            rust_name.to_owned()
        };
        let bare = rust_name.strip_prefix("r#").unwrap_or(rust_name);
        Self {
            function,
            constant: bare.to_uppercase(),
            // The underscore before a digit is not needed there.
            setter: format!("on_{}", bare.trim_start_matches('_')),
        }
    }
}

/// The module in which prost-build puts what is nested in the message called `proto_name`.
pub(crate) fn nested_module(proto_name: &str) -> String {
    proto_name.to_snake_case()
}

/// Whether `name` can be written as a Rust identifier, raw or not.
pub(crate) fn is_identifier(name: &str) -> bool {
    syn::parse_str::<syn::Ident>(name).is_ok()
}

/// An identifier may not begin with a digit, which `_1` does once its underscore is taken for a separator.
fn with_letter_first(name: String) -> String {
    if name.starts_with(|first: char| first.is_numeric()) {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_in_camel_and_snake_case() {
        let names = ServiceNames::new("HTTPEcho", "HttpEcho");
        assert_eq!(names.service, "HttpEcho");
        assert_eq!(names.client, "HttpEchoClient");
        assert_eq!(names.server, "HttpEchoServer");
        assert_eq!(
            names.modules(),
            ["http_echo_client", "http_echo_server", "http_echo_methods"]
        );
        assert_eq!(names.twin, "DynHttpEcho");
        assert_eq!(names.mock, "MockHttpEcho");
        assert_eq!(names.mock_module, "http_echo_mock");
        assert_eq!(names.blocking_module, "http_echo_blocking");
    }

    #[test]
    fn a_service_named_like_a_keyword_needs_no_escape_but_for_its_trait() {
        let names = ServiceNames::new("Self", "Self_");
        assert_eq!(names.service, "Self_");
        assert_eq!(names.client, "SelfClient");
        assert_eq!(names.client_module, "self_client");
    }

    #[test]
    fn a_name_that_would_begin_with_a_digit_gets_an_underscore() {
        let names = ServiceNames::new("_1", "_1");
        assert_eq!(names.client, "_1Client");
        assert_eq!(names.client_module, "_1_client");
        assert_eq!(names.twin, "Dyn1");
    }

    #[test]
    fn methods_keep_their_raw_names_but_not_in_constants() {
        let names = MethodNames::new("r#type");
        assert_eq!(names.function, "r#type");
        assert_eq!(names.constant, "TYPE");
        assert_eq!(names.setter, "on_type");
        assert_eq!(MethodNames::new("_1").setter, "on_1");
    }

    #[test]
    fn methods_make_way_for_the_clients_own_functions() {
        for used in USED_BY_CLIENT {
            assert_eq!(MethodNames::new(used).function, format!("{used}_"));
        }
        assert_eq!(MethodNames::new("new").constant, "NEW");
        assert_eq!(MethodNames::new("from_arc").function, "from_arc");
    }

    #[test]
    fn identifiers_are_told_from_the_rest() {
        for good in ["say", "r#type", "_1", "self_"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "_", "1", "type", "a-b", "a b", "self"] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }
}
