//! Compiles `quorate/v1/*.proto` with protox, so that no `protoc` is needed on the machine.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 8] = [
    "quorate/v1/common.proto",
    "quorate/v1/produce.proto",
    "quorate/v1/fetch.proto",
    "quorate/v1/metadata.proto",
    "quorate/v1/admin.proto",
    "quorate/v1/peer.proto",
    "quorate/v1/controller.proto",
    "quorate/v1/partition.proto",
];

#[expect(clippy::disallowed_methods, reason = "a build script writes where cargo tells it to")]
fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    std::fs::write(out.join("quorate.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
