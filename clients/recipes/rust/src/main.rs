use std::{env, error::Error, time::Duration};

use tonic::{transport::Endpoint, Code, Status};
use tonic_types::StatusExt;

mod v1 {
    tonic::include_proto!("teamtoken.v1");
}

use v1::{team_token_service_client::TeamTokenServiceClient, DeleteTokenRequest, GenerateTokenRequest};

/// What the service says of an error: its reason and outcome.
fn told(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => format!("{} {}", info.reason, info.metadata.get("outcome").map_or("", String::as_str)),
        None => "nothing".to_string(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("say where the service is")?;
    let team = env::var("TEAM")?;
    let channel = Endpoint::from_shared(address)?.timeout(Duration::from_secs(60)).connect().await?;
    let mut tokens = TeamTokenServiceClient::new(channel);
    let request = GenerateTokenRequest {
        team_id: team.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let made = tokens.generate_token(request.clone()).await?.into_inner();
    let again = tokens.generate_token(request).await?.into_inner();
    let id = made.team_token.map(|t| t.id).unwrap_or_default();
    println!("made {id}, and again the same: {}", made.secret == again.secret);
    let gone = DeleteTokenRequest { team_id: team, expected_token_id: id, allow_missing: false };
    tokens.delete_token(gone.clone()).await?;
    match tokens.delete_token(DeleteTokenRequest { expected_token_id: String::new(), ..gone }).await {
        Err(status) if status.code() == Code::NotFound => println!("then: {}", told(&status)),
        other => return Err(format!("then: {other:?}").into()),
    }
    Ok(())
}
