//! A conversation of several turns: `cargo run --release --example chat -- MODEL.coexec`, one question a line.

use coexec::{Chat, ChatOptions, Engine, EngineOptions, FinishReason, GenerateRequest, RuntimeError, SamplerOptions};
use std::io::{BufRead as _, Write as _};

fn main() -> anyhow::Result<()> {
    let model = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("give the .coexec file of an instruct model"))?;
    let engine = Engine::open(model.as_ref(), EngineOptions::default())?;
    let mut chat = Chat::new(&engine, ChatOptions { drop_oldest: true, ..ChatOptions::default() })?;
    chat.set_system(Some("Answer in one sentence."));
    let sampler = SamplerOptions::from(&engine.model().config().generation);
    let request = GenerateRequest { max_tokens: 200, sampler, ..GenerateRequest::default() };
    for question in std::io::stdin().lock().lines() {
        let mut show = |piece: &str| {
            print!("{piece}");
            _ = std::io::stdout().flush();
        };
        match chat.send(&question?, &request, &mut show) {
            Ok(reply) => {
                let stats = &reply.generation.stats;
                let cut = if reply.generation.finish_reason == FinishReason::Length { ", cut off" } else { "" };
                println!("\n[{} tokens reused, {} prefilled{cut}]", stats.reused_tokens, stats.prefilled_tokens);
            }
            // The conversation is as it was before the question.
            Err(error @ RuntimeError::ChatFull { .. }) => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
