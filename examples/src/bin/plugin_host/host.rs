//! The host: knows the words, and looks after its plug-in.

use std::{
    collections::hash_map::RandomState,
    env,
    error::Error,
    future::pending,
    hash::{BuildHasher as _, Hasher as _},
    process,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use examples::plugin::{
    AttachReply, AttachRequest, RenderRequest, TranslateReply, TranslateRequest,
    host_server::{Host, HostServer},
    plugin_client::PluginClient,
};
use shmipc_rpc::{Code, Request, Response, Server, Status};
use tokio::{
    process::{Child, Command},
    sync::{Notify, mpsc},
};

use crate::PLUGIN;

/// What is rendered.
const LINES: [&str; 4] = [
    "the moon has risen",
    "the golden stars are bright",
    "the forest is black and silent",
    "the mist is white and wonderful",
];

/// The words that are translated. All others stay as they are.
const WORDS: [(&str, &str); 16] = [
    ("and", "und"),
    ("are", "sind"),
    ("black", "schwarz"),
    ("bright", "hell"),
    ("forest", "wald"),
    ("golden", "goldnen"),
    ("has", "ist"),
    ("is", "ist"),
    ("mist", "nebel"),
    ("moon", "mond"),
    ("risen", "aufgegangen"),
    ("silent", "still"),
    ("stars", "sternlein"),
    ("the", "der"),
    ("white", "weiss"),
    ("wonderful", "wunderbar"),
];

/// The plug-in is killed when it asks for this word for the first time.
const LAST_WORD: &str = "black";

/// How long a plug-in may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(10);

/// Renders all lines, and ends the plug-in.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // Nobody is to guess the name and take it first. A name without a file leaves nothing behind.
    let random = RandomState::new().build_hasher().finish();
    let socket = format!("@plugin_host-{}-{random:016x}", process::id());
    let (attached, mut plugins) = mpsc::unbounded_channel();
    let asked = Arc::new(Notify::new());
    let service = Dictionary {
        attached,
        last_words: Mutex::new(Some(Arc::clone(&asked))),
    };
    let server = Server::builder()
        .add_service(HostServer::new(service))
        .start(socket.as_str())
        .await?;

    let mut child = start(&socket)?;
    let mut plugin = plugins.recv().await.ok_or("nobody can attach any more")?;
    let mut was_killed = false;
    for line in LINES {
        loop {
            let request = RenderRequest {
                line: line.to_owned(),
            };
            let rendered = tokio::select! {
                rendered = plugin.render(request) => rendered,
                never = kill_when(&asked, &mut child), if !was_killed => never?,
            };
            match rendered {
                Ok(reply) => {
                    println!("{line}: {}", reply.into_inner().line);
                    break;
                }
                Err(status) if status.code() == Code::Unavailable && !was_killed => {
                    println!("the plug-in died at {line:?}");
                    was_killed = true;
                    child.wait().await?;
                    child = start(&socket)?;
                    plugin = plugins.recv().await.ok_or("nobody can attach any more")?;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }

    let report = server.drain(GRACE).await;
    println!("calls that were cut off: {}", report.cut_off.len());
    let status = child.wait().await?;
    println!("the plug-in ended: {status}");
    Ok(())
}

/// Starts the plug-in, which is this very program.
fn start(socket: &str) -> Result<Child, Box<dyn Error>> {
    Ok(Command::new(env::current_exe()?)
        .arg(PLUGIN)
        .arg(socket)
        .kill_on_drop(true)
        .spawn()?)
}

/// Kills the plug-in once it has asked for the last word. Returns only if that cannot be done: what becomes of the call, its
/// own future tells.
async fn kill_when<T>(asked: &Notify, plugin: &mut Child) -> Result<T, Box<dyn Error>> {
    asked.notified().await;
    plugin.start_kill()?; // SIGKILL: it is not asked.
    pending().await
}

/// What the plug-in is offered.
struct Dictionary {
    attached: mpsc::UnboundedSender<PluginClient>,
    /// Told when the plug-in asks for the word that it does not live to hear.
    last_words: Mutex<Option<Arc<Notify>>>,
}

impl Dictionary {
    fn take_last_words(&self) -> Option<Arc<Notify>> {
        let mut last_words = self
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_words.take()
    }
}

impl Host for Dictionary {
    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachReply>, Status> {
        let gone = || Status::unavailable("the plug-in is gone");
        let plugin = PluginClient::new(request.channel().ok_or_else(gone)?);
        println!("{} attached", request.get_ref().name);
        self.attached
            .send(plugin)
            .map_err(|_| Status::unavailable("the host ends"))?;
        request.draining().begun().await;
        Ok(Response::new(AttachReply {}))
    }

    async fn translate(
        &self,
        request: Request<TranslateRequest>,
    ) -> Result<Response<TranslateReply>, Status> {
        let word = request.into_inner().word;
        if word == LAST_WORD
            && let Some(asked) = self.take_last_words()
        {
            asked.notify_one();
            // The caller's end is the end of this, too.
            return pending().await;
        }
        let known = WORDS.iter().find(|(known, _)| *known == word);
        let word = known.map_or(word, |(_, translated)| (*translated).to_owned());
        Ok(Response::new(TranslateReply { word }))
    }
}
