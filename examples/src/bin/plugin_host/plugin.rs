//! The plug-in: renders lines, word by word, with the help of its host.

use std::error::Error;

use examples::plugin::{
    AttachRequest, RenderReply, RenderRequest, TranslateRequest,
    host_client::HostClient,
    plugin_server::{Plugin, PluginServer},
};
use shmipc_rpc::{Channel, Request, Response, Server, Status};

/// Connects to the host, and serves it until it has no more use for that.
pub(crate) async fn run(socket: &str) -> Result<(), Box<dyn Error>> {
    let channel = Channel::builder(socket)
        .serve(Server::builder().add_service(PluginServer::new(Translator)))
        .connect()
        .await?;
    let host = HostClient::new(channel);
    // Ends when the host drains, and fails if the host dies: either way, so does this process.
    host.attach(AttachRequest {
        name: "translator".to_owned(),
    })
    .await?;
    Ok(())
}

/// Renders a line as the translations of its words.
struct Translator;

impl Plugin for Translator {
    async fn render(
        &self,
        request: Request<RenderRequest>,
    ) -> Result<Response<RenderReply>, Status> {
        let gone = || Status::unavailable("the host is gone");
        let host = HostClient::new(request.channel().ok_or_else(gone)?);
        let mut words = Vec::new();
        for word in request.get_ref().line.split_whitespace() {
            let word = word.to_owned();
            let translated = host.translate(TranslateRequest { word }).await?;
            words.push(translated.into_inner().word);
        }
        let line = words.join(" ");
        Ok(Response::new(RenderReply { line }))
    }
}
