//! Runs a script of MCP requests through rmcp and prints one JSON line a step; or is a server.
//!
//! ```text
//! peer-rmcp auto|legacy SCRIPT PREFIX -- COMMAND ARGS…
//! peer-rmcp auto|legacy SCRIPT PREFIX -- http://ADDRESS
//! peer-rmcp serve
//! ```
//!
//! What is printed and how is in `tests/peers/README.md`; `client.mjs` and `client.py` do the same.
#![expect(
    deprecated,
    reason = "the newer era deprecates what the older one needs"
)]

mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp::model::{
    ArgumentInfo, CallToolRequest, CallToolRequestParams, CallToolResponse, ClientConfig,
    ClientRequest, CompleteRequestParams, CreateMessageRequestParams, CreateMessageResult,
    CustomNotification, ElicitRequestParams, ElicitResult, GetPromptRequestParams, GetTaskParams,
    InputResponses, ListRootsResult, LoggingMessageNotificationParam, ProgressNotificationParam,
    ProtocolVersion, ReadResourceRequestParams, Reference, RequestMetaObject,
    ResourceUpdatedNotificationParam, ServerResult, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt as _, NotificationContext, PeerRequestOptions,
    RequestContext, RequestHandle, RunningService,
};
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{ClientHandler, ErrorData, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

type Failure = Box<dyn std::error::Error>;

/// How the client answers, what it was asked, and what it was told unasked.
#[derive(Clone, Default)]
struct Handler {
    declared: Arc<Value>,
    /// The answers of the step that runs.
    answers: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<Value>>>,
    told: Arc<Mutex<Vec<Value>>>,
    /// What progress came, by token.
    progress: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    came: Arc<Notify>,
}

impl Handler {
    /// The answer of the script to a question of this kind: one for all, or one after the other.
    fn answer(&self, kind: &str, method: &str, params: Value, fallback: Value) -> Value {
        self.asked
            .lock()
            .unwrap()
            .push(json!({"method": method, "params": params}));
        match &mut self.answers.lock().unwrap()[kind] {
            Value::Null => fallback,
            Value::Array(row) if kind != "roots" => row.remove(0),
            said => said.clone(),
        }
    }

    fn told(&self, method: &str, params: Value) {
        self.told
            .lock()
            .unwrap()
            .push(json!({"method": method, "params": params}));
        self.came.notify_waiters();
    }
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.client_info.name = "peer-rmcp".into();
        info.client_info.version = "1".into();
        let mut capabilities = json!({});
        if let Some(kinds) = self.declared["elicitation"].as_array() {
            for kind in kinds {
                capabilities["elicitation"][kind.as_str().unwrap()] = json!({});
            }
        }
        if self.declared["sampling"] == json!(true) {
            capabilities["sampling"] = json!({});
        }
        if self.declared["roots"].is_array() {
            capabilities["roots"] = json!({"listChanged": true});
        }
        if self.declared["tasks"] == json!(true) {
            capabilities["extensions"] = json!({"io.modelcontextprotocol/tasks": {}});
        }
        info.capabilities = serde_json::from_value(capabilities).unwrap();
        info
    }

    async fn create_elicitation(
        &self,
        params: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let params = json!(params);
        let kind = params["mode"].as_str().unwrap_or("form").to_owned();
        let fallback = json!({"action": "cancel"});
        let said = self.answer(&kind, "elicitation/create", params, fallback);
        Ok(serde_json::from_value(said).unwrap())
    }

    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let text = self.answer(
            "sampling",
            "sampling/createMessage",
            json!(params),
            json!("nothing"),
        );
        let said = json!({"role": "assistant", "model": "scripted", "stopReason": "endTurn",
            "content": {"type": "text", "text": text}});
        Ok(serde_json::from_value(said).unwrap())
    }

    async fn list_roots(
        &self,
        _context: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        let roots = self.answer(
            "roots",
            "roots/list",
            json!({}),
            self.declared["roots"].clone(),
        );
        Ok(serde_json::from_value(json!({"roots": roots})).unwrap())
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
        self.progress
            .lock()
            .unwrap()
            .entry(token)
            .or_default()
            .push(seen);
        self.came.notify_waiters();
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told("notifications/message", json!(params));
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told("notifications/resources/updated", json!(params));
    }

    async fn on_resource_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.told("notifications/resources/list_changed", json!({}));
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.told("notifications/tools/list_changed", json!({}));
    }

    async fn on_prompt_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.told("notifications/prompts/list_changed", json!({}));
    }

    async fn on_custom_notification(
        &self,
        notification: CustomNotification,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told(&notification.method.clone(), json!(notification.params));
    }
}

struct Steps {
    client: RunningService<RoleClient, Handler>,
    handler: Handler,
    prefix: String,
    /// How long a request may take.
    limit: Duration,
    /// In the newer era every request says which messages it wants.
    level: Option<Value>,
    listening: Vec<oneshot::Sender<()>>,
    subscribed: Vec<String>,
}

impl Steps {
    fn protocol(&self) -> Option<String> {
        let info = self.client.peer_info()?;
        Some(info.protocol_version.to_string())
    }

    fn stateless(&self) -> bool {
        self.protocol()
            .is_some_and(|version| *version >= *"2026-07-28")
    }

    fn call(&self, step: &Value) -> CallToolRequestParams {
        let name = self.prefix.clone() + step["name"].as_str().unwrap_or_default();
        let mut params = CallToolRequestParams::new(name);
        params.arguments = step["arguments"].as_object().cloned();
        params.meta = self.level.clone().map(|level| {
            let mut meta = RequestMetaObject::new();
            meta.set_log_level(serde_json::from_value(level).unwrap());
            meta
        });
        params
    }

    async fn run(&mut self, step: &Value, out: &mut Value) -> Result<Value, ServiceError> {
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
            "declare" => Ok(json!({})),
            "server" => {
                let info = self.client.peer_info();
                let info = info.as_ref();
                Ok(json!({
                    "protocol": self.protocol(),
                    "capabilities": info.map(|info| json!(info.capabilities)),
                    "instructions": info.and_then(|info| info.instructions.clone()),
                }))
            }
            "call" if step["progress"] == json!(true) => {
                let handle = self.start(step).await?;
                let token = json!(handle.progress_token).to_string();
                let result = finish(handle, self.limit).await?;
                // what came before the answer is with the handler a moment later
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut progress = self.handler.progress.lock().unwrap();
                out["progress"] = json!(progress.remove(&token).unwrap_or_default());
                Ok(result)
            }
            "call" => {
                let call = self.client.call_tool(self.call(step));
                let timeout = self.limit;
                let result = tokio::time::timeout(timeout, call)
                    .await
                    .map_err(|_elapsed| ServiceError::Timeout { timeout })?;
                Ok(json!(result?))
            }
            // until the tool answers with the text: for effects that take time
            "until" => {
                let mut wait = Duration::from_millis(50);
                loop {
                    let result = finish(self.start(step).await?, self.limit).await?;
                    let found = result["content"][0]["text"] == step["text"];
                    if found || wait > Duration::from_millis(12_800) {
                        return Ok(result);
                    }
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
            // takes the call back at its first progress notification
            "cancel" => {
                let handle = self.start(step).await?;
                let token = json!(handle.progress_token).to_string();
                loop {
                    let came = self.handler.came.notified();
                    if self.handler.progress.lock().unwrap().contains_key(&token) {
                        break;
                    }
                    came.await;
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
            "level" => {
                if self.stateless() {
                    self.level = Some(step["level"].clone());
                } else {
                    let level = serde_json::from_value(step["level"].clone()).unwrap();
                    self.client
                        .set_level(SetLevelRequestParams::new(level))
                        .await?;
                }
                Ok(json!({}))
            }
            "listen" => self.listen(step).await,
            "unlisten" => {
                self.listening.clear();
                for uri in std::mem::take(&mut self.subscribed) {
                    self.client
                        .unsubscribe(UnsubscribeRequestParams::new(uri))
                        .await?;
                }
                Ok(json!({}))
            }
            "wait" => Ok(self.wait(step).await),
            // lets whoever runs this do something: goes on after a line on standard input
            "hook" => {
                println!("{}", json!({"hook": step["name"]}));
                let line = || std::io::stdin().read_line(&mut String::new());
                tokio::task::spawn_blocking(line).await.unwrap().unwrap();
                Ok(json!({}))
            }
            "task" => self.task(step).await,
            other => panic!("no step {other:?}"),
        }
    }

    async fn listen(&mut self, step: &Value) -> Result<Value, ServiceError> {
        let uris: Vec<String> = serde_json::from_value(step["uris"].clone()).unwrap_or_default();
        if !self.stateless() {
            for uri in uris {
                self.client
                    .subscribe(SubscribeRequestParams::new(uri.clone()))
                    .await?;
                self.subscribed.push(uri);
            }
            return Ok(json!({}));
        }
        let wants = |list: &str| step[list] == json!(true);
        let mut filter = SubscriptionFilter::builder().resource_subscriptions(uris);
        if wants("tools") {
            filter = filter.tools_list_changed();
        }
        if wants("prompts") {
            filter = filter.prompts_list_changed();
        }
        if wants("resources") {
            filter = filter.resources_list_changed();
        }
        let mut subscription = self.client.listen(filter.build()).await?;
        let (stop, mut stopped) = oneshot::channel();
        let handler = self.handler.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut stopped => break drop(subscription.cancel().await),
                    told = subscription.next() => match told {
                        Ok(Some(told)) => {
                            let told = json!(told);
                            let params = told.get("params").cloned().unwrap_or(json!({}));
                            handler.told(told["method"].as_str().unwrap(), params);
                        }
                        Ok(None) | Err(_) => break,
                    },
                }
            }
        });
        self.listening.push(stop);
        Ok(json!({}))
    }

    /// The first `count` notifications of a method, whose params have the members of `where`.
    async fn wait(&self, step: &Value) -> Value {
        let count = usize::try_from(step["count"].as_u64().unwrap_or(1)).unwrap();
        let within = Duration::from_millis(step["within"].as_u64().unwrap_or(20_000));
        let end = tokio::time::Instant::now() + within;
        let no_members = serde_json::Map::new();
        let members = step["where"].as_object().unwrap_or(&no_members);
        loop {
            let came = self.handler.came.notified();
            let found: Vec<Value> = {
                let told = self.handler.told.lock().unwrap();
                let of_method = told.iter().filter(|told| told["method"] == step["for"]);
                let params = of_method.map(|told| told["params"].clone());
                params
                    .filter(|params| members.iter().all(|(key, value)| params[key] == *value))
                    .take(count)
                    .collect()
            };
            let ended = found.len() == count || tokio::time::timeout_at(end, came).await.is_err();
            if ended {
                self.handler
                    .told
                    .lock()
                    .unwrap()
                    .retain(|told| told["method"] != step["for"]);
                return json!({"came": found});
            }
        }
    }

    /// The tool as a task, followed to its end.
    async fn task(&self, step: &Value) -> Result<Value, ServiceError> {
        let mut statuses = Vec::new();
        let task = match self.client.peer().call_tool_once(self.call(step)).await? {
            CallToolResponse::Task(created) => json!(created),
            CallToolResponse::Complete(result) => {
                return Ok(json!({"statuses": statuses, "result": result}));
            }
            _ => return Err(ServiceError::UnexpectedResponse),
        };
        let id = task["taskId"].as_str().unwrap_or_default().to_owned();
        loop {
            let seen = json!(self.client.get_task(GetTaskParams::new(id.clone())).await?);
            if statuses.last() != Some(&seen["status"]) {
                statuses.push(seen["status"].clone());
            }
            match seen["status"].as_str() {
                Some("working") => tokio::time::sleep(Duration::from_millis(50)).await,
                Some("input_required") => {
                    let mut responses = InputResponses::new();
                    for (key, request) in seen["inputRequests"].as_object().into_iter().flatten() {
                        let params = request["params"].clone();
                        let fallback = json!({"action": "cancel"});
                        let said =
                            self.handler
                                .answer("form", "elicitation/create", params, fallback);
                        responses.insert(key.clone(), said);
                    }
                    let update = UpdateTaskParams::new(id.clone(), responses);
                    self.client.update_task(update).await?;
                }
                _ => return Ok(json!({"statuses": statuses, "result": seen["result"]})),
            }
        }
    }

    async fn start(&self, step: &Value) -> Result<RequestHandle<RoleClient>, ServiceError> {
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(self.call(step)));
        let options = PeerRequestOptions::default();
        self.client.send_request_with_option(request, options).await
    }
}

async fn finish(handle: RequestHandle<RoleClient>, limit: Duration) -> Result<Value, ServiceError> {
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
    if arguments == ["serve"] {
        return server::serve().await;
    }
    let [mode, script, prefix, dashes, command, rest @ ..] = &arguments[..] else {
        return Err("usage: peer-rmcp auto|legacy SCRIPT PREFIX -- COMMAND ARGS…".into());
    };
    assert_eq!(dashes, "--");
    let script: Vec<Value> = serde_json::from_slice(&std::fs::read(script)?)?;

    let lifecycle = match mode.as_str() {
        "legacy" => ClientLifecycleMode::Initialize,
        _ => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        },
    };
    let declared = match script.first() {
        Some(step) if step["do"] == json!("declare") => step.clone(),
        _ => json!({}),
    };
    let limit = Duration::from_millis(declared["timeout"].as_u64().unwrap_or(60_000));
    let handler = Handler {
        declared: Arc::new(declared),
        ..Handler::default()
    };
    let client = if command.starts_with("http://") {
        let transport = StreamableHttpClientTransport::from_uri(command.as_str());
        handler
            .clone()
            .serve_with_lifecycle(transport, lifecycle)
            .await?
    } else {
        let mut child = tokio::process::Command::new(command);
        child.args(rest);
        let transport = TokioChildProcess::new(child)?;
        handler
            .clone()
            .serve_with_lifecycle(transport, lifecycle)
            .await?
    };
    let mut steps = Steps {
        client,
        handler,
        prefix: prefix.clone(),
        limit,
        level: None,
        listening: Vec::new(),
        subscribed: Vec::new(),
    };

    let mut failed = false;
    for (at, step) in script.iter().enumerate() {
        let mut out = json!({"step": at, "do": step["do"]});
        *steps.handler.answers.lock().unwrap() = step.get("answers").cloned().unwrap_or(json!({}));
        steps.handler.asked.lock().unwrap().clear();
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
        if step.get("answers").is_some() {
            out["asked"] = json!(*steps.handler.asked.lock().unwrap());
        }
        println!("{out}");
    }
    steps.client.cancel().await?;
    std::process::exit(i32::from(failed));
}
