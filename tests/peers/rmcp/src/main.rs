//! Runs a script of MCP requests through rmcp and prints one JSON line a step.
//!
//! ```text
//! peer-rmcp auto|legacy SCRIPT PREFIX -- COMMAND ARGS…
//! ```
//!
//! What is printed and how is in `tests/peers/README.md`; `client.mjs` and `client.py` do the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp::model::{
    ArgumentInfo, CallToolRequest, CallToolRequestParams, ClientConfig, ClientRequest,
    CompleteRequestParams, GetPromptRequestParams, JsonObject, ProgressNotificationParam,
    ProtocolVersion, ReadResourceRequestParams, Reference, ServerResult,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt as _, NotificationContext, PeerRequestOptions,
    RequestHandle, RunningService,
};
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientHandler, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::sync::Notify;

type Failure = Box<dyn std::error::Error>;

/// What progress came, by token.
#[derive(Clone, Default)]
struct Handler {
    progress: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    progressed: Arc<Notify>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.client_info.name = "peer-rmcp".into();
        info.client_info.version = "1".into();
        info
    }

    async fn on_progress(
        &self,
        mut params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        params.meta = None;
        let token = json!(params.progress_token).to_string();
        let mut seen = json!(params);
        seen.as_object_mut().unwrap().remove("progressToken");
        self.progress.lock().unwrap().entry(token).or_default().push(seen);
        self.progressed.notify_one();
    }
}

struct Steps {
    client: RunningService<RoleClient, Handler>,
    handler: Handler,
    prefix: String,
}

impl Steps {
    async fn run(&self, step: &Value, out: &mut Value) -> Result<Value, ServiceError> {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let name = |key: &str| self.prefix.clone() + &text(key);
        let arguments = || step["arguments"].as_object().cloned();
        match text("do").as_str() {
            "list" => Ok(match text("what").as_str() {
                "tools" => json!({"tools": self.client.list_all_tools().await?}),
                "prompts" => json!({"prompts": self.client.list_all_prompts().await?}),
                "resources" => json!({"resources": self.client.list_all_resources().await?}),
                _ => json!({"resourceTemplates": self.client.list_all_resource_templates().await?}),
            }),
            "call" => {
                let handle = self.start(name("name"), arguments()).await?;
                let token = json!(handle.progress_token).to_string();
                let result = finish(handle).await?;
                if step["progress"] == json!(true) {
                    let mut progress = self.handler.progress.lock().unwrap();
                    out["progress"] = json!(progress.remove(&token).unwrap_or_default());
                }
                Ok(result)
            }
            // until the tool answers with the text: for effects that take time
            "until" => {
                let end = tokio::time::Instant::now() + Duration::from_secs(20);
                loop {
                    let result = finish(self.start(name("name"), arguments()).await?).await?;
                    let found = result["content"][0]["text"] == step["text"];
                    if found || tokio::time::Instant::now() > end {
                        return Ok(result);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            // takes the call back at its first progress notification
            "cancel" => {
                let handle = self.start(name("name"), arguments()).await?;
                let token = json!(handle.progress_token).to_string();
                while !self.handler.progress.lock().unwrap().contains_key(&token) {
                    self.handler.progressed.notified().await;
                }
                handle.cancel(Some("no longer needed".into())).await?;
                Ok(json!({"cancelled": true}))
            }
            "prompt" => {
                let mut params = GetPromptRequestParams::new(name("name"));
                params.arguments = arguments();
                Ok(json!(self.client.get_prompt(params).await?))
            }
            "read" => {
                let params = ReadResourceRequestParams::new(text("uri"));
                Ok(json!(self.client.read_resource(params).await?))
            }
            "complete" => {
                let reference = match step.get("prompt") {
                    Some(_) => Reference::for_prompt(name("prompt")),
                    None => Reference::for_resource(text("template")),
                };
                let argument = |key: &str| step["argument"][key].as_str().unwrap_or_default();
                let argument = ArgumentInfo::new(argument("name"), argument("value"));
                let params = CompleteRequestParams::new(reference, argument);
                Ok(json!(self.client.complete(params).await?))
            }
            other => panic!("no step {other:?}"),
        }
    }

    async fn start(
        &self,
        name: String,
        arguments: Option<JsonObject>,
    ) -> Result<RequestHandle<RoleClient>, ServiceError> {
        let mut params = CallToolRequestParams::new(name);
        params.arguments = arguments;
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let options = PeerRequestOptions::default();
        self.client.send_request_with_option(request, options).await
    }
}

async fn finish(handle: RequestHandle<RoleClient>) -> Result<Value, ServiceError> {
    let limit = Duration::from_secs(60);
    let result = tokio::time::timeout(limit, handle.await_response())
        .await
        .map_err(|_elapsed| ServiceError::Timeout { timeout: limit })??;
    match result {
        ServerResult::CallToolResult(result) => Ok(json!(result)),
        _ => Err(ServiceError::UnexpectedResponse),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, script, prefix, dashes, command, rest @ ..] = &arguments[..] else {
        return Err("usage: peer-rmcp auto|legacy SCRIPT PREFIX -- COMMAND ARGS…".into());
    };
    assert_eq!(dashes, "--");
    let script: Vec<Value> = serde_json::from_slice(&std::fs::read(script)?)?;

    let mut child = tokio::process::Command::new(command);
    child.args(rest);
    let lifecycle = match mode.as_str() {
        "legacy" => ClientLifecycleMode::Initialize,
        _ => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        },
    };
    let handler = Handler::default();
    let client = handler
        .clone()
        .serve_with_lifecycle(TokioChildProcess::new(child)?, lifecycle)
        .await?;
    let steps = Steps { client, handler, prefix: prefix.clone() };

    let mut failed = false;
    for (at, step) in script.iter().enumerate() {
        let mut out = json!({"step": at, "do": step["do"]});
        match steps.run(step, &mut out).await {
            Ok(result) => out["result"] = result,
            Err(ServiceError::McpError(error)) => {
                out["error"] = json!({"code": error.code.0, "message": error.message});
            }
            // the SDK's own complaint
            Err(error) => {
                out["error"] = json!({"code": null, "message": error.to_string()});
                failed = true;
            }
        }
        println!("{out}");
    }
    steps.client.cancel().await?;
    std::process::exit(i32::from(failed));
}
