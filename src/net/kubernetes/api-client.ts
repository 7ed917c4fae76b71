/**
 * Requests to a Kubernetes API server over a few kept connections: whole answers of a bounded size, and streams of lines. No request waits
 * for ever; what is not an answer of 2xx is a KubernetesApiError.
 */
import type { ClientRequest, IncomingMessage, Agent as PlainAgent } from "node:http";
import { request as plainRequest, Agent as UnencryptedAgent } from "node:http";
import { Agent, request } from "node:https";
import { StringDecoder } from "node:string_decoder";
import type { ApiAccess, ApiCredentials } from "./credentials.ts";

export class KubernetesApiError extends Error {
  readonly code = "KUBERNETES_API_FAILED";
  /** HTTP status; 0 when there was no answer. */
  readonly status: number;
  /** What the server asks to be left alone for. */
  readonly retryAfterMs: number | undefined;
  constructor(message: string, status: number, options: ErrorOptions & { readonly retryAfterMs?: number } = {}) {
    super(message, options);
    this.name = "KubernetesApiError";
    this.status = status;
    this.retryAfterMs = options.retryAfterMs;
  }
}

export interface ApiRequest {
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Begins with "/"; with its query. */
  readonly path: string;
  readonly body?: string;
  readonly contentType?: string;
  readonly timeoutMs?: number;
}

export interface WatchRequest {
  readonly path: string;
  /** A stream that says nothing for so long is dead. */
  readonly silenceMs: number;
  /** The server has taken the watch. */
  readonly opened: () => void;
  /** One line, without its end. What it throws ends the stream. */
  readonly line: (text: string) => void;
}

export interface KubernetesApi {
  /** The body's text. */
  request(request: ApiRequest, signal?: AbortSignal): Promise<string>;
  /** Resolves when the server ends the stream. */
  watch(watch: WatchRequest, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

const requestTimeoutMs = 30_000;
/** To connect and to be answered by headers. */
const watchOpenTimeoutMs = 10_000;
/** A page of 500 pods with all that controllers write into them is a few megabytes. */
const maxAnswerBytes = 64 * 1024 * 1024;
/** etcd takes objects of 1.5 MB by default. */
const maxLineLength = 16 * 1024 * 1024;
/** Finds a peer that is gone without a word within about 20 s. */
const keepAliveMs = 10_000;

export function createKubernetesApi(credentials: ApiCredentials, userAgent = "signalbox"): KubernetesApi {
  return new Api(credentials, userAgent);
}

class Api implements KubernetesApi {
  readonly #credentials: ApiCredentials;
  readonly #userAgent: string;
  readonly #closing = new AbortController();
  #agent: Agent | UnencryptedAgent | undefined;
  /** What the agent was made with. */
  #agentKey = "";

  constructor(credentials: ApiCredentials, userAgent: string) {
    this.#credentials = credentials;
    this.#userAgent = userAgent;
  }

  async request(what: ApiRequest, signal?: AbortSignal): Promise<string> {
    const timeout = AbortSignal.timeout(what.timeoutMs ?? requestTimeoutMs);
    const ended = AbortSignal.any([timeout, this.#closing.signal, ...(signal === undefined ? [] : [signal])]);
    const answer = await this.#send(what, ended);
    const text = await wholeText(answer, maxAnswerBytes).catch((cause: unknown) => {
      throw new KubernetesApiError(`${what.path}: the answer broke off`, 0, { cause });
    });
    if (isGood(answer)) return text;
    throw refusalOf(what.path, answer, text);
  }

  async watch(watch: WatchRequest, signal: AbortSignal): Promise<void> {
    const opening = new AbortController();
    const late = setTimeout(
      () => opening.abort(new Error(`no answer within ${watchOpenTimeoutMs} ms`)),
      watchOpenTimeoutMs,
    );
    const ended = AbortSignal.any([opening.signal, this.#closing.signal, signal]);
    try {
      const answer = await this.#send(watch, ended);
      if (!isGood(answer)) throw refusalOf(watch.path, answer, await wholeText(answer, 1024 * 1024));
      clearTimeout(late);
      watch.opened();
      await readLines(answer, watch);
    } finally {
      clearTimeout(late);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#agent?.destroy();
    return await Promise.resolve();
  }

  async #send(what: ApiRequest, signal: AbortSignal): Promise<IncomingMessage> {
    let access: ApiAccess;
    try {
      access = await this.#credentials.access();
    } catch (cause) {
      throw new KubernetesApiError("the credentials for the API server cannot be read", 0, { cause });
    }
    if (signal.aborted) throw new KubernetesApiError(`${what.path}: aborted`, 0, { cause: signal.reason });
    const url = new URL(access.server + what.path);
    const { method = "GET", body, contentType } = what;
    return await new Promise((resolve, reject) => {
      const options = {
        method,
        signal,
        agent: access.agent ?? this.#agentFor(access),
        headers: {
          accept: "application/json",
          "user-agent": this.#userAgent,
          ...(body === undefined ? {} : bodyHeaders(body, contentType)),
          ...access.headers,
        },
      };
      let isAnswered = false;
      const answered = (answer: IncomingMessage): void => {
        isAnswered = true;
        resolve(answer);
      };
      const attempt = (): void => {
        const outgoing: ClientRequest =
          url.protocol === "http:"
            ? plainRequest(url, { ...options, agent: options.agent as PlainAgent }, answered)
            : request(url, options, answered);
        outgoing.on("error", (cause) => {
          // The server may end a kept connection at the moment it is used again; asking twice harms nobody.
          if (method === "GET" && outgoing.reusedSocket && !isAnswered && !signal.aborted) return attempt();
          reject(new KubernetesApiError(`${method} ${what.path}: no answer: ${cause.message}`, 0, { cause }));
        });
        outgoing.end(body);
      };
      attempt();
    });
  }

  /** Made anew when trust or identity change, which also ends what still runs under the old ones. */
  #agentFor({ server, tls }: ApiAccess): Agent | UnencryptedAgent {
    const key = JSON.stringify([server, tls]);
    if (this.#agent !== undefined && key === this.#agentKey) return this.#agent;
    this.#agent?.destroy();
    this.#agentKey = key;
    const keeping = { keepAlive: true, keepAliveMsecs: keepAliveMs, maxFreeSockets: 16 };
    const { ca, cert, key: privateKey, serverName, verifies } = tls;
    this.#agent = server.startsWith("http:")
      ? new UnencryptedAgent(keeping)
      : new Agent({
          ...keeping,
          rejectUnauthorized: verifies,
          ...(ca === undefined ? {} : { ca }),
          ...(cert === undefined ? {} : { cert }),
          ...(privateKey === undefined ? {} : { key: privateKey }),
          ...(serverName === undefined ? {} : { servername: serverName }),
        });
    return this.#agent;
  }
}

/** The length is said for every method: without it the body of a DELETE would be read as the next request of its connection. */
function bodyHeaders(body: string, contentType = "application/json"): Readonly<Record<string, string | number>> {
  return { "content-type": contentType, "content-length": Buffer.byteLength(body) };
}

function isGood({ statusCode = 0 }: IncomingMessage): boolean {
  return statusCode >= 200 && statusCode < 300;
}

function refusalOf(path: string, { statusCode = 0, headers }: IncomingMessage, text: string): KubernetesApiError {
  const seconds = Number(headers["retry-after"]);
  return new KubernetesApiError(
    `${path}: status ${statusCode}: ${text.slice(0, 300)}`,
    statusCode,
    seconds > 0 ? { retryAfterMs: seconds * 1000 } : {},
  );
}

function wholeText(answer: IncomingMessage, maxBytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    answer.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > maxBytes) answer.destroy(new Error(`an answer of more than ${maxBytes} bytes`));
      else chunks.push(chunk);
    });
    answer.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    answer.on("error", reject);
    answer.on("aborted", () => reject(new Error("the connection was lost")));
  });
}

function readLines(answer: IncomingMessage, { path, silenceMs, line }: WatchRequest): Promise<void> {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  return new Promise<void>((resolve, reject) => {
    const fail = (message: string, cause?: unknown): void => {
      reject(new KubernetesApiError(`${path}: ${message}`, 0, { cause }));
      answer.destroy();
    };
    const silence = setTimeout(() => fail(`silent for ${silenceMs} ms`), silenceMs);
    const stop = (): void => clearTimeout(silence);
    answer.on("data", (chunk: Buffer) => {
      silence.refresh();
      rest += decoder.write(chunk);
      let from = 0;
      try {
        for (let end = rest.indexOf("\n", from); end >= 0; end = rest.indexOf("\n", from)) {
          if (end > from) line(rest.slice(from, end));
          from = end + 1;
        }
      } catch (error) {
        stop();
        reject(error instanceof Error ? error : new Error(String(error)));
        answer.destroy();
        return;
      }
      rest = rest.slice(from);
      if (rest.length > maxLineLength) {
        stop();
        fail(`a line of more than ${maxLineLength} characters`);
      }
    });
    answer.on("end", () => {
      stop();
      resolve();
    });
    answer.on("error", (error) => {
      stop();
      fail(error.message, error);
    });
    answer.on("close", () => {
      stop();
      fail("the connection was lost");
    });
  });
}
