//! A server of rmcp: speaks both eras, whichever the client opens with. It has every feature that
//! the SDK knows, under the names that `upstream.mjs` uses, and the tasks extension.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientResult,
    CompleteRequestParams, CompleteResult, ContentBlock, CreateTaskResult, GetPromptRequestParams,
    GetPromptResponse, GetTaskParams, GetTaskResult, InputRequest, InputRequests,
    InputRequiredResult, InputResponses, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, LoggingLevel, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ResourceUpdatedNotificationParam,
    ServerConfig, ServerRequest, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext, SubscriptionSink};
use rmcp::task_manager::{TaskExit, TaskManager, TaskOptions};
use rmcp::{ErrorData, ServerHandler, ServiceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Speaks on its standard streams until they end.
pub(crate) async fn serve() -> Result<(), Failure> {
    let service = Server::default().serve(rmcp::transport::stdio()).await?;
    service.waiting().await?;
    Ok(())
}

#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
    tasks: TaskManager,
}

#[derive(Default)]
struct State {
    cancelled: u32,
    /// What the older era asked for.
    level: Option<LoggingLevel>,
    subscribed: Vec<String>,
    /// The newer era's subscriptions.
    sinks: Vec<SubscriptionSink>,
    grown: Vec<String>,
}

/// The model of rmcp for a text of the protocol.
fn from<T: DeserializeOwned>(text: Value) -> T {
    serde_json::from_value(text).unwrap()
}

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A page of a list: the SDK puts nothing of the newer era into it, and takes it out for the older.
fn page<T: DeserializeOwned>(name: &str, entries: &[Value]) -> T {
    from(json!({name: entries, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}))
}

/// What a tool asks, by the key of the answer.
fn question(kind: &str) -> InputRequest {
    from(match kind {
        "name" => json!({"method": "elicitation/create", "params": {
            "mode": "form",
            "message": "What is your name?",
            "requestedSchema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "title": "Name"},
                    "age": {"type": "integer", "minimum": 0},
                },
                "required": ["name"],
            },
        }}),
        "visit" => json!({"method": "elicitation/create", "params": {
            "mode": "url",
            "message": "Sign in there, please.",
            "url": "https://peer.example/visit?x=1&y=%20",
            "elicitationId": "visit-1",
        }}),
        "model" => json!({"method": "sampling/createMessage", "params": {
            "messages": [{"role": "user", "content": {"type": "text", "text": "Say something nice."}}],
            "systemPrompt": "You are nice.",
            "maxTokens": 10,
        }}),
        _ => json!({"method": "roots/list"}),
    })
}

fn stateless(context: &RequestContext<RoleServer>) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() >= "2026-07-28")
}

impl Server {
    /// The answer as JSON, or the result that asks for it.
    async fn ask(
        &self,
        kind: &str,
        responses: Option<&InputResponses>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Result<String, InputRequiredResult>, ErrorData> {
        if stateless(context) {
            if let Some(answer) = responses.and_then(|responses| responses.get(kind)) {
                return Ok(Ok(answer.to_string()));
            }
            let requests = InputRequests::from([(kind.to_owned(), question(kind))]);
            return Ok(Err(InputRequiredResult::new(Some(requests), None)));
        }
        let request = match question(kind) {
            InputRequest::CreateMessage(request) => ServerRequest::CreateMessageRequest(request),
            InputRequest::Elicitation(request) => ServerRequest::ElicitRequest(request),
            InputRequest::ListRoots(request) => ServerRequest::ListRootsRequest(request),
            _ => unreachable!("no other question"),
        };
        let answered = context.peer.send_request(request).await;
        let failed = |error| ErrorData::internal_error(format!("not answered: {error}"), None);
        let answer = match answered.map_err(failed)? {
            ClientResult::ElicitResult(result) => json!(result),
            ClientResult::CreateMessageResult(result) => json!(result),
            ClientResult::ListRootsResult(result) => json!(result),
            other => json!(other),
        };
        Ok(Ok(answer.to_string()))
    }

    async fn slow(&self, steps: u64, context: &RequestContext<RoleServer>) -> CallToolResult {
        let token = context.meta.get_progress_token();
        for step in 1..=steps {
            if context.ct.is_cancelled() {
                self.state.lock().unwrap().cancelled += 1;
                break;
            }
            if let Some(token) = &token {
                let progress = json!({"progressToken": token, "progress": step, "total": steps,
                    "message": format!("step {step}")});
                drop(context.peer.notify_progress(from(progress)).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        text("done")
    }

    async fn log(&self, context: &RequestContext<RoleServer>) -> CallToolResult {
        let wanted = if stateless(context) {
            context.meta.log_level()
        } else {
            Some(
                self.state
                    .lock()
                    .unwrap()
                    .level
                    .unwrap_or(LoggingLevel::Debug),
            )
        };
        let order = [
            "debug",
            "info",
            "notice",
            "warning",
            "error",
            "critical",
            "alert",
            "emergency",
        ];
        let rank = |level: &Value| order.iter().position(|name| level == name);
        for (level, data) in [
            ("debug", json!("a detail")),
            (
                "warning",
                json!({"what": "a warning", "n": 12_345_678_901_234_567_000_u64}),
            ),
            ("error", json!(["an error", null])),
        ] {
            let message = json!({"level": level, "logger": "peer", "data": data});
            if wanted.is_some_and(|wanted| rank(&json!(level)) >= rank(&json!(wanted))) {
                drop(context.peer.notify_logging_message(from(message)).await);
            }
        }
        text("logged")
    }

    /// The SDK acknowledges a subscription before [`Server::listen`] has its sink.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    async fn touch(&self, uri: &str, context: &RequestContext<RoleServer>) -> CallToolResult {
        self.settle().await;
        let (sinks, subscribed) = {
            let state = self.state.lock().unwrap();
            (
                state.sinks.clone(),
                state.subscribed.iter().any(|of| of == uri),
            )
        };
        for sink in sinks {
            drop(sink.notify_resource_updated(uri).await);
        }
        if subscribed {
            let params = ResourceUpdatedNotificationParam::new(uri);
            drop(context.peer.notify_resource_updated(params).await);
        }
        text("touched")
    }

    async fn grow(&self, what: &str, context: &RequestContext<RoleServer>) -> CallToolResult {
        self.settle().await;
        let sinks = {
            let mut state = self.state.lock().unwrap();
            state.grown.push(what.to_owned());
            state.sinks.clone()
        };
        for sink in sinks {
            drop(match what {
                "tools" => sink.notify_tool_list_changed().await,
                "prompts" => sink.notify_prompt_list_changed().await,
                _ => sink.notify_resource_list_changed().await,
            });
        }
        if !stateless(context) {
            drop(match what {
                "tools" => context.peer.notify_tool_list_changed().await,
                "prompts" => context.peer.notify_prompt_list_changed().await,
                _ => context.peer.notify_resource_list_changed().await,
            });
        }
        text("grown")
    }

    /// A task where the client knows them, an answer elsewhere.
    fn work(&self, asks: bool, context: &RequestContext<RoleServer>) -> CallToolResponse {
        let tasks = context
            .client_capabilities()
            .is_some_and(|caps| caps.supports_tasks());
        if !tasks {
            return text("worked").into();
        }
        let options = TaskOptions::new().with_poll_interval_ms(10);
        let task = self.tasks.spawn(options, move |context| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if context.is_cancel_requested() {
                    return Err(TaskExit::Cancelled);
                }
                if asks {
                    let answer = context.request_input("name", question("name")).await?;
                    return Ok(text(answer.to_string()));
                }
                Ok(text("worked"))
            })
        });
        CreateTaskResult::new(task).into()
    }

    fn grew(&self, what: &str) -> bool {
        self.state
            .lock()
            .unwrap()
            .grown
            .iter()
            .any(|grown| grown == what)
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        from(json!({
            "protocolVersion": "2025-11-25",
            "serverInfo": {"name": "peer-rmcp", "title": "A Rust peer", "version": "1.0.0"},
            "instructions": "Use echo to hear yourself.",
            "capabilities": {
                "completions": {},
                "extensions": {"io.modelcontextprotocol/tasks": {}},
                "logging": {},
                "prompts": {"listChanged": true},
                "resources": {"listChanged": true, "subscribe": true},
                "tools": {"listChanged": true},
            },
        }))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |name: &str, description: &str, properties: Value| {
            let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
            json!({"name": name, "description": description,
                "inputSchema": {"type": "object", "properties": properties, "required": required}})
        };
        let string = json!({"type": "string"});
        let mut echo = tool("echo", "Says it again", json!({"message": string}));
        echo["title"] = json!("Echo");
        echo["annotations"] = json!({"readOnlyHint": true});
        echo["_meta"] = json!({"example/kept": {"a": [1, null]}});
        let number = json!({"type": "number"});
        let mut add = tool("add", "Adds", json!({"a": number, "b": number}));
        add["outputSchema"] =
            json!({"type": "object", "properties": {"sum": number}, "required": ["sum"]});
        let mut tools = vec![
            echo,
            add,
            tool("fail", "Fails", json!({})),
            tool(
                "slow",
                "Reports progress until it is done or taken back",
                json!({"steps": {"type": "integer"}}),
            ),
            tool("taken-back", "How many calls were taken back", json!({})),
            tool("picture", "Other kinds of content", json!({})),
            tool("ask-name", "Asks with a form", json!({})),
            tool("ask-visit", "Asks to open an address", json!({})),
            tool("ask-model", "Asks the model of the client", json!({})),
            tool("ask-roots", "Asks for the roots", json!({})),
            tool("log", "Logs at three levels", json!({})),
            tool(
                "touch",
                "Says that a resource was changed",
                json!({"uri": string}),
            ),
            tool("grow", "Adds to a list", json!({"what": string})),
            tool("work", "Takes a while", json!({})),
            tool("work-asking", "Takes a while and asks", json!({})),
        ];
        if self.grew("tools") {
            tools.push(tool("extra", "Came later", json!({})));
        }
        Ok(page("tools", &tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = json!(request.arguments);
        let argument = |key: &str| arguments[key].as_str().unwrap_or_default();
        Ok(match request.name.as_ref() {
            "echo" => {
                let mut said = json!(text(argument("message")));
                said["_meta"] = json!({"example/also": true});
                from::<CallToolResult>(said).into()
            }
            "add" => {
                let (Some(a), Some(b)) = (arguments["a"].as_f64(), arguments["b"].as_f64()) else {
                    return Err(ErrorData::invalid_params("a and b are numbers", None));
                };
                let sum = json!({"sum": a + b});
                let content = [json!({"type": "text", "text": sum.to_string()})];
                from::<CallToolResult>(
                    json!({"content": content, "structuredContent": sum, "resultType": "complete"}),
                )
                .into()
            }
            "fail" => CallToolResult::error(vec![ContentBlock::text("it is broken")]).into(),
            "slow" => {
                let steps = arguments["steps"].as_u64().unwrap_or_default();
                self.slow(steps, &context).await.into()
            }
            "taken-back" => text(self.state.lock().unwrap().cancelled.to_string()).into(),
            "picture" => from::<CallToolResult>(json!({"resultType": "complete", "content": [
                {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png",
                    "annotations": {"audience": ["user"], "priority": 0.5}},
                {"type": "resource_link", "uri": "peer://static", "name": "static"},
                {"type": "resource", "resource": {"uri": "peer://inline", "mimeType": "text/plain",
                    "text": "Grüße, \u{2028} 世界 😀"}},
            ]}))
            .into(),
            "ask-name" | "ask-visit" | "ask-model" | "ask-roots" => {
                let kind = request.name.trim_start_matches("ask-");
                match self
                    .ask(kind, request.input_responses.as_ref(), &context)
                    .await?
                {
                    Ok(answer) => text(answer).into(),
                    Err(asks) => asks.into(),
                }
            }
            "log" => self.log(&context).await.into(),
            "touch" => self.touch(argument("uri"), &context).await.into(),
            "grow" => self.grow(argument("what"), &context).await.into(),
            "work" => self.work(false, &context),
            "work-asking" => self.work(true, &context),
            "extra" if self.grew("tools") => text("extra").into(),
            name => {
                return Err(ErrorData::invalid_params(
                    format!("unknown tool: {name}"),
                    None,
                ));
            }
        })
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut prompts = vec![
            json!({"name": "greet", "title": "Greet", "description": "A greeting",
                "arguments": [{"name": "name", "required": true}]}),
            json!({"name": "ask-prompt", "description": "A prompt that asks"}),
        ];
        if self.grew("prompts") {
            prompts.push(json!({"name": "extra", "description": "Came later"}));
        }
        Ok(page("prompts", &prompts))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let words = match request.name.as_str() {
            "greet" => {
                let arguments = json!(request.arguments);
                format!("Greet {}.", arguments["name"].as_str().unwrap_or_default())
            }
            "ask-prompt" => {
                match self
                    .ask("name", request.input_responses.as_ref(), &context)
                    .await?
                {
                    Ok(answer) => answer,
                    Err(asks) => return Ok(asks.into()),
                }
            }
            name => {
                return Err(ErrorData::invalid_params(
                    format!("unknown prompt: {name}"),
                    None,
                ));
            }
        };
        let content = json!({"type": "text", "text": words});
        let messages = [json!({"role": "user", "content": content})];
        let prompt = json!({"messages": messages, "resultType": "complete"});
        Ok(GetPromptResponse::Complete(from(prompt)))
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut resources = vec![json!({"uri": "peer://static", "name": "static",
            "mimeType": "text/plain", "description": "Always the same"})];
        if self.grew("resources") {
            resources.push(json!({"uri": "peer://extra", "name": "extra"}));
        }
        Ok(page("resources", &resources))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let item = json!({"uriTemplate": "peer://items/{id}", "name": "item",
            "mimeType": "application/json"});
        Ok(page("resourceTemplates", &[item]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri.as_str();
        let contents = match uri.strip_prefix("peer://items/") {
            Some(id) => json!({"uri": uri, "mimeType": "application/json",
                "text": json!({"id": id}).to_string()}),
            None if uri == "peer://static" => {
                json!({"uri": uri, "mimeType": "text/plain", "text": "static"})
            }
            None => return Err(ErrorData::resource_not_found("unknown resource", None)),
        };
        Ok(ReadResourceResponse::Complete(from(
            json!({"contents": [contents], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
        )))
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let request = json!(request);
        let known: &[&str] = match request["ref"]["type"].as_str() {
            Some("ref/prompt") => &["Ada", "Alan", "Grace"],
            _ => &["1", "12", "2"],
        };
        let begin = request["argument"]["value"].as_str().unwrap_or_default();
        let values: Vec<&&str> = known
            .iter()
            .filter(|value| value.starts_with(begin))
            .collect();
        Ok(from(
            json!({"completion": {"values": values}, "resultType": "complete"}),
        ))
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.state.lock().unwrap().level = Some(request.level);
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.state.lock().unwrap().subscribed.push(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.state
            .lock()
            .unwrap()
            .subscribed
            .retain(|uri| *uri != request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let sink = context.sink().clone();
        self.state.lock().unwrap().sinks.push(sink.clone());
        context.cancelled().await;
        self.state
            .lock()
            .unwrap()
            .sinks
            .retain(|other| other.id() != sink.id());
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.tasks.get_task(&request.task_id)?))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks
            .update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }
}
