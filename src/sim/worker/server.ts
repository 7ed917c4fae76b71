/** The worker's HTTP surface, as vLLM's OpenAI server: routes, bodies and refusals. What is asked of the model goes to the model. */
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type ApiError, badRequest, encodeApiError } from "./api-error.ts";
import {
  chatTokensOf,
  type InferenceKind,
  type JsonObject,
  parseInferenceBody,
  parseJsonObject,
} from "./inference-body.ts";
import type { SimulatedModel } from "./model.ts";
import type { WorkerOptions } from "./options.ts";
import { textOfTokens, tokensOfPieces } from "./tokenizer.ts";

type Post = (value: JsonObject, request: IncomingMessage, response: ServerResponse) => void;

const notFound: ApiError = { status: 404, message: "Not Found", type: "NotFoundError", param: null };
const wrongMethod: ApiError = { status: 405, message: "Method Not Allowed", type: "MethodNotAllowed", param: null };
const bodyTooLarge: ApiError = { status: 413, message: "Request body too large", type: "BadRequestError", param: null };

export class WorkerServer {
  readonly http: Server;
  readonly #options: WorkerOptions;
  readonly #model: SimulatedModel;
  readonly #gets: Readonly<Record<string, (response: ServerResponse) => void>>;
  readonly #posts: Readonly<Record<string, Post>>;

  constructor(options: WorkerOptions, model: SimulatedModel) {
    this.#options = options;
    this.#model = model;
    this.#gets = {
      "/health": (response) => this.#send(response, 200, "text/plain", ""),
      "/ping": (response) => this.#send(response, 200, "text/plain", ""),
      "/version": (response) => this.#sendJson(response, { version: "0.11.0+signalbox.sim" }),
      "/v1/models": (response) => this.#sendJson(response, this.#models()),
      "/metrics": (response) =>
        this.#send(response, 200, "text/plain; version=0.0.4; charset=utf-8", model.metricsPage()),
    };
    this.#posts = {
      "/v1/chat/completions": this.#inferenceAs("chat"),
      "/v1/completions": this.#inferenceAs("completion"),
      "/v1/embeddings": this.#inferenceAs("embedding"),
      "/v1/chat/completions/render": this.#renderAs("chat"),
      "/v1/completions/render": this.#renderAs("completion"),
      "/tokenize": (value, _, response) => this.#tokenize(value, response),
      "/detokenize": (value, _, response) => this.#detokenize(value, response),
      "/v1/load_lora_adapter": (value, _, response) => this.#changeAdapter(value, response, true),
      "/v1/unload_lora_adapter": (value, _, response) => this.#changeAdapter(value, response, false),
      "/reset_prefix_cache": (_value, _, response) => {
        this.#model.engine.resetPrefixCache();
        this.#send(response, 200, "text/plain", "");
      },
    };
    this.http = createServer({ keepAliveTimeout: 75_000, noDelay: true }, (request, response) =>
      this.#onRequest(request, response),
    );
  }

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const startedMs = performance.now();
    const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
    const method = request.method ?? "GET";
    const get = this.#gets[path];
    const post = this.#posts[path];
    response.setHeader("x-signalbox-worker", this.#options.name);
    response.once("finish", () => {
      // Only known paths become a label: a client must not be able to grow the metrics page.
      const handler = get === undefined && post === undefined ? "none" : path;
      const seconds = (performance.now() - startedMs) / 1000;
      this.#model.metrics.countResponse(method, handler, response.statusCode, seconds);
    });
    const isRead = method === "GET" || method === "HEAD";
    if (isRead && get !== undefined) get(response);
    else if (method === "POST" && post !== undefined) this.#readBody(request, response, post);
    else this.#refuse(response, get === undefined && post === undefined ? notFound : wrongMethod);
  }

  /** Collects the body up to the limit; `post` runs once, and not at all when the client leaves. */
  #readBody(request: IncomingMessage, response: ServerResponse, post: Post): void {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= this.#options.maxBodyBytes) {
        chunks.push(chunk);
        return;
      }
      request.removeAllListeners("data").removeAllListeners("end");
      response.setHeader("connection", "close");
      this.#refuse(response, bodyTooLarge);
    });
    request.on("end", () => {
      const bytes = chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks);
      // Some control endpoints are posted to without a body.
      const parsed = bytes.length === 0 ? { value: {} } : parseJsonObject(bytes);
      if ("error" in parsed) this.#refuse(response, parsed.error);
      else post(parsed.value, request, response);
    });
    request.on("error", () => response.destroy());
  }

  #inferenceAs(kind: InferenceKind): Post {
    return (value, request, response) => {
      const reading = parseInferenceBody(kind, value);
      if ("error" in reading) {
        this.#refuse(response, reading.error);
        return;
      }
      const requestId = request.headers["x-request-id"];
      const error = this.#model.infer(reading.body, typeof requestId === "string" ? requestId : undefined, response);
      if (error !== undefined) this.#refuse(response, error);
    };
  }

  /** As vLLM: what the engine would be given, one object a prompt; a chat is one prompt. */
  #renderAs(kind: "chat" | "completion"): Post {
    return (value, _request, response) => {
      const reading = parseInferenceBody(kind, value);
      if ("error" in reading) {
        this.#refuse(response, reading.error);
        return;
      }
      const { model, prompts, stream, maxTokens } = reading.body;
      const rendered = prompts.map((tokens) => ({
        request_id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-${randomUUID()}`,
        token_ids: [...tokens],
        features: null,
        sampling_params: { max_tokens: Number.isFinite(maxTokens) ? maxTokens : null },
        model: model ?? this.#options.servedModelNames[0],
        stream,
      }));
      this.#sendJson(response, kind === "chat" ? rendered[0] : rendered);
    };
  }

  #models(): unknown {
    const [base] = this.#options.servedModelNames;
    const created = Math.floor(Date.now() / 1000);
    const card = (id: string, parent: string | null): unknown => ({
      id,
      object: "model",
      created,
      owned_by: "vllm",
      root: id,
      parent,
      max_model_len: parent === null ? this.#model.engine.config.maxModelLen : null,
      permission: [],
    });
    const bases = this.#options.servedModelNames.map((name) => card(name, null));
    return { object: "list", data: [...bases, ...this.#model.adapters.served.map((name) => card(name, base ?? null))] };
  }

  #changeAdapter(value: JsonObject, response: ServerResponse, isLoad: boolean): void {
    const name = value["lora_name"];
    if (typeof name !== "string" || name === "") {
      this.#refuse(response, badRequest("Both 'lora_name' and 'lora_path' must be provided.", "lora_name"));
    } else if (isLoad ? this.#model.adapters.load(name) : this.#model.adapters.unload(name)) {
      const done = isLoad ? "added" : "removed";
      this.#send(response, 200, "text/plain", `Success: LoRA adapter '${name}' ${done} successfully.`);
    } else if (isLoad) {
      this.#refuse(response, badRequest(`The lora adapter '${name}' has already been loaded.`, "lora_name"));
    } else {
      const message = `The lora adapter '${name}' cannot be found.`;
      this.#refuse(response, { status: 404, message, type: "NotFoundError", param: "lora_name" });
    }
  }

  #tokenize(value: JsonObject, response: ServerResponse): void {
    const prompt = value["prompt"];
    const tokens = typeof prompt === "string" ? tokensOfPieces([prompt]) : chatTokensOf(value);
    if (!(tokens instanceof Uint32Array)) {
      this.#refuse(response, tokens);
      return;
    }
    const { maxModelLen } = this.#model.engine.config;
    this.#sendJson(response, {
      count: tokens.length,
      max_model_len: maxModelLen,
      tokens: [...tokens],
      token_strs: null,
    });
  }

  #detokenize(value: JsonObject, response: ServerResponse): void {
    const tokens = value["tokens"];
    if (!Array.isArray(tokens) || !tokens.every((token) => typeof token === "number")) {
      this.#refuse(response, badRequest("tokens must be a list of token ids", "tokens"));
      return;
    }
    this.#sendJson(response, { prompt: textOfTokens(tokens) });
  }

  #refuse(response: ServerResponse, error: ApiError): void {
    this.#send(response, error.status, "application/json", encodeApiError(error));
  }

  #sendJson(response: ServerResponse, value: unknown): void {
    this.#send(response, 200, "application/json", JSON.stringify(value));
  }

  #send(response: ServerResponse, status: number, contentType: string, text: string): void {
    response.writeHead(status, { "content-type": contentType, "content-length": String(Buffer.byteLength(text)) });
    response.end(text);
  }
}
