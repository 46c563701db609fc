//! `coexec inspect`: what a packed file holds.

use super::{
    console::{bar, out, outln},
    shared::{Format, packed},
    usage::no_effect,
};
use clap::Args;
use coexec::model::{LayerIdx, LinearKind, RopeScaling, TensorName, TokenId, packed::PackedFile};
use std::{fmt::Write as _, path::PathBuf};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The .coexec file; without it the embedded demo model
    file: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List scales, hot channels and importance of every linear
    #[arg(long)]
    calibration: bool,
    /// Check every tile's checksum
    #[arg(long)]
    verify: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let file = packed(args.file.as_deref())?;
    if args.verify {
        let bar = bar("tiles");
        let verified = file.verify_each(&mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        verified?;
    }
    if args.format == Format::Json {
        no_effect(&["tensors", "calibration"], "JSON has them always");
    }
    match args.format {
        Format::Json => outln!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({
                "summary": file.summary(),
                "config": file.config(),
                "calibration": file.calibration(),
                "verified": args.verify,
            }))?
        )?,
        Format::Text => out!("{}", text(&file, args)?)?,
    }
    Ok(())
}

/// Token ids, comma-separated.
fn tokens(ids: &[TokenId]) -> String {
    let ids: Vec<String> = ids.iter().map(|t| t.0.to_string()).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

/// How rotary frequencies are scaled, after a comma; nothing where they are not.
fn scaling(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => format!(
            ", llama3 scaling by {factor} (frequency factors {low_freq_factor} and {high_freq_factor}, trained on \
             {original_max_position_embeddings} tokens)"
        ),
        RopeScaling::Factors { factors } => format!(", {} factors of the file", factors.len()),
    }
}

fn text(file: &PackedFile, args: &InspectArgs) -> Result<String, std::fmt::Error> {
    let (s, c) = (file.summary(), file.config());
    let mib = |b: u64| b as f64 / f64::from(1 << 20);
    let mut out = String::new();
    writeln!(
        out,
        "{}  {:.2} MiB, version {}, layout {}, by {}",
        file.label(),
        mib(s.file_bytes),
        s.version,
        s.layout,
        s.producer
    )?;
    writeln!(out, "content      {:016x}{}", s.content_hash, if args.verify { ", every checksum holds" } else { "" })?;
    writeln!(
        out,
        "architecture {}: hidden {}, ffn {}, {} layers, {} heads ({} kv) of {}, vocabulary {}, context {}",
        c.architecture,
        c.hidden_size,
        c.intermediate_size,
        c.num_hidden_layers,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.head_dim,
        c.vocab_size,
        c.max_position_embeddings
    )?;
    let tied = if file.has(TensorName::Head) { "tied head in a format of its own, " } else { "tied head, " };
    writeln!(
        out,
        "             {}rope theta {}{}; bos {}, eos {}",
        [(c.tie_word_embeddings, tied), (c.qkv_bias, "qkv bias, "), (c.qk_norm, "qk norm, ")]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| *name)
            .collect::<String>(),
        c.rope_theta,
        scaling(&c.rope_scaling),
        tokens(c.bos_token_id.as_slice()),
        tokens(&c.eos_token_ids),
    )?;
    let templates: Vec<_> = file.tokenizer().chat_templates.keys().map(String::as_str).collect();
    writeln!(
        out,
        "text         tokenizer {} bytes, chat templates: {}",
        file.tokenizer().tokenizer_json.len(),
        if templates.is_empty() { "none".to_owned() } else { templates.join(", ") }
    )?;
    match file.calibration() {
        Some(cal) => writeln!(out, "calibration  on {} tokens: runs on the NPU", cal.tokens)?,
        None => writeln!(out, "calibration  none: runs on the CPU only (import with --calibrate)")?,
    }
    writeln!(
        out,
        "\n{:<10} {:>8} {:>14} {:>11} {:>11} {:>7}",
        "kind", "tensors", "elements", "raw MiB", "file MiB", "ratio"
    )?;
    for (kind, t) in s.kinds.iter().chain([(&"total".to_owned(), &s.total)]) {
        writeln!(
            out,
            "{kind:<10} {:>8} {:>14} {:>11.2} {:>11.2} {:>7.3}",
            t.tensors,
            t.elems,
            mib(t.raw_bytes),
            mib(t.stored_bytes),
            t.ratio()
        )?;
    }
    if args.tensors {
        writeln!(
            out,
            "\n{:<24} {:<10} {:>8} {:>8} {:>6} {:>12} {:>7}",
            "tensor", "kind", "n", "k", "tiles", "file bytes", "ratio"
        )?;
        for t in &s.tensors {
            writeln!(
                out,
                "{:<24} {:<10} {:>8} {:>8} {:>6} {:>12} {:>7.3}",
                t.name.to_string(),
                t.kind,
                t.n,
                t.k,
                t.tiles,
                t.stored_bytes,
                t.ratio()
            )?;
        }
    }
    if let Some(cal) = file.calibration().filter(|_| args.calibration) {
        writeln!(out, "\n{:<14} {:>11} {:>5} {:>11}  output scales", "linear", "input scale", "hot", "importance")?;
        for l in 0..c.num_hidden_layers {
            for kind in LinearKind::ALL {
                if let Some(x) = cal.linear(LayerIdx(l), kind) {
                    writeln!(
                        out,
                        "{:<14} {:>11.5} {:>5} {:>11.2e}  {}",
                        format!("L{l} {kind}"),
                        x.input_scale,
                        x.hot_channels.len(),
                        x.importance,
                        x.output_scales.iter().map(|s| format!("{s:.5}")).collect::<Vec<_>>().join(" ")
                    )?;
                }
            }
        }
    }
    Ok(out)
}
