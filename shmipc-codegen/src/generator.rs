//! The seam to prost-build: it hands over services, and takes text for the files of their packages.

use std::cell::RefCell;
use std::rc::Rc;

use quote::quote;

use crate::check;
use crate::diagnostic::Diagnostic;
use crate::model::Service;
use crate::read::Locations;
use crate::render::{self, Options};

/// Renders services for prost-build.
pub(crate) struct Generator {
    pub(crate) options: Options,
    pub(crate) locations: Locations,
    /// What was found wrong, for the builder. Without a builder it becomes a compile error in the generated code.
    pub(crate) found: Rc<RefCell<Vec<Diagnostic>>>,
    /// Another generator to be given the same services.
    pub(crate) next: Option<Box<dyn prost_build::ServiceGenerator>>,
}

impl Generator {
    fn render(&self, service: prost_build::Service) -> Result<String, Vec<Diagnostic>> {
        let service = Service::from_prost(service)
            .map_err(|invalid| vec![check::invalid_type(&invalid, &self.locations)])?;
        let found = check::service(&service, &self.locations);
        if !found.is_empty() {
            return Err(found);
        }
        Ok(render::render(&service, &self.options).to_string())
    }
}

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, buf: &mut String) {
        match self.render(service.clone()) {
            Ok(text) => buf.push_str(&text),
            Err(found) => {
                for diagnostic in &found {
                    let message = diagnostic.to_string();
                    buf.push_str(&quote! { ::core::compile_error!(#message); }.to_string());
                }
                self.found.borrow_mut().extend(found);
            }
        }
        // prost-build counts on services leaving something behind.
        buf.push('\n');
        if let Some(next) = &mut self.next {
            next.generate(service, buf);
        }
    }

    fn finalize(&mut self, buf: &mut String) {
        if let Some(next) = &mut self.next {
            next.finalize(buf);
        }
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        if let Some(next) = &mut self.next {
            next.finalize_package(package, buf);
        }
    }
}
