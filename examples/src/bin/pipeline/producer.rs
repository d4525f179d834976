//! The producer: makes frames.

use std::error::Error;

use examples::pipeline::{Frame, Summary, stage_client::StageClient};
use shmipc_rpc::{Channel, Endpoint, Sender, Status};

use crate::{figures, sha256};

/// How many frames are made.
const FRAMES: u32 = 32;

/// The length of a frame's pixels.
const FULL_LEN: usize = 1 << 20;

/// That of every fourth frame's, which are small.
const SMALL_LEN: usize = 1 << 10;

/// Sends the frames to the filter, and returns what became of them.
pub(crate) async fn run(filter: impl Into<Endpoint>) -> Result<String, Box<dyn Error>> {
    let channel = Channel::connect(filter).await?;
    let client = StageClient::new(channel.clone());
    let (mut sender, leaving) = Sender::for_requests();
    let send = async {
        for number in 0..FRAMES {
            sender.send(&frame(number, &channel).await?).await?;
        }
        sender.finish();
        Ok::<_, Status>(())
    };
    let (sent, summary) = tokio::join!(send, client.process(leaving));
    // If the call has failed, that is why nothing more could be sent.
    let Summary {
        dropped,
        arrived,
        pixels,
    } = summary?.into_inner();
    sent?;
    Ok(format!(
        "{FRAMES} frames were made\n\
         {dropped} were dropped by the filter\n\
         {arrived} arrived, with {pixels} bytes of pixels\n\
         \n\
         bytes    not copied passed on copied\n\
         {}",
        figures("producer", &channel)
    ))
}

/// Makes a frame, with its pixels where the filter can see them.
async fn frame(number: u32, channel: &Channel) -> Result<Frame, Status> {
    let len = if number % 4 == 3 { SMALL_LEN } else { FULL_LEN };
    // Waits while the frames under way take up all of the memory.
    let mut pixels = channel.alloc(len).await?;
    draw(number, &mut pixels);
    Ok(Frame {
        number,
        sharpness: number * 37 % 100,
        sha256: sha256(&pixels).into(),
        pixels: pixels.freeze(),
    })
}

/// Draws stripes, different ones in each frame.
fn draw(number: u32, pixels: &mut [u8]) {
    for (position, pixel) in (number..).zip(pixels) {
        *pixel = (position % 251) as u8;
    }
}
