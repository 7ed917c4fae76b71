/** Requests to a gateway by the host name of a route, as a client sends them, and which pod answered. */
import { request } from "node:http";
import { defaultModel } from "../../stack.ts";

export interface GatewayAnswer {
  readonly status: number;
  /** The pod that answered; "" where none did. */
  readonly worker: string;
  readonly body: string;
}

export interface AskOptions {
  readonly stream?: boolean;
  readonly maxTokens?: number;
  /** Default: 80. */
  readonly port?: number;
}

const timeoutMs = 30_000;

/** A completion over a connection of its own. Rejects when there is no whole answer. */
export function ask(
  gateway: string,
  host: string,
  prompt: string,
  { stream = false, maxTokens = 3, port = 80 }: AskOptions = {},
): Promise<GatewayAnswer> {
  const body = JSON.stringify({ model: defaultModel, prompt, max_tokens: maxTokens, stream });
  return new Promise((resolve, reject) => {
    const options = {
      host: gateway,
      port,
      path: "/v1/completions",
      method: "POST",
      agent: false,
      timeout: timeoutMs,
      headers: { host, "content-type": "application/json", "content-length": Buffer.byteLength(body) },
    };
    const sent = request(options, (answer) => {
      const chunks: Buffer[] = [];
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.once("error", reject);
      answer.once("end", () =>
        resolve({
          status: answer.statusCode ?? 0,
          worker: String(answer.headers["x-signalbox-worker"] ?? ""),
          body: Buffer.concat(chunks).toString(),
        }),
      );
    });
    sent.once("error", reject);
    sent.once("timeout", () => sent.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    sent.end(body);
  });
}

/** Long enough to fill several cache blocks, and unlike any other. */
export function longPrompt(name: string): string {
  return Array.from({ length: 400 }, (_, index) => `${name}-${index}`).join(" ");
}
