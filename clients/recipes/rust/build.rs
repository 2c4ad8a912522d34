use prost::Message;
use std::{fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=gen/contract.binpb");
    let contract = prost_types::FileDescriptorSet::decode(fs::read("gen/contract.binpb")?.as_slice())?;
    tonic_prost_build::configure().build_server(false).compile_fds(contract)
}
