/** One request over a kept connection, with its headers exactly as given (fetch trims and orders them), and when its first body byte came. */
import { type Agent, type IncomingMessage, request } from "node:http";

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly text: string;
  /** From the start of the request, as the others. */
  readonly headersMs: number;
  /** Undefined when there was no body. */
  readonly firstByteMs: number | undefined;
  readonly totalMs: number;
}

export interface Question {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Text as it is, anything else as JSON with exact bigints. */
  readonly body?: unknown;
  readonly agent?: Agent;
  readonly timeoutMs?: number;
}

/** JSON in which a bigint is a number. */
export function exactJson(value: unknown): string {
  return JSON.stringify(value, (_, member: unknown) =>
    typeof member === "bigint"
      ? (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(String(member))
      : member,
  );
}

/** Rejects when the connection breaks or the answer takes longer than timeoutMs (20 s). */
export function send(url: string, question: Question = {}): Promise<Answer> {
  const { body } = question;
  const text = body === undefined ? "" : typeof body === "string" ? body : exactJson(body);
  const startedAt = performance.now();
  return new Promise((resolve, reject) => {
    const call = request(
      url,
      {
        method: question.method ?? (body === undefined ? "GET" : "POST"),
        headers: {
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...question.headers,
          "content-length": String(Buffer.byteLength(text)),
        },
        ...(question.agent === undefined ? {} : { agent: question.agent }),
        signal: AbortSignal.timeout(question.timeoutMs ?? 20_000),
      },
      (response) => {
        const headersMs = performance.now() - startedAt;
        const chunks: Buffer[] = [];
        let firstByteMs: number | undefined;
        response.on("data", (chunk: Buffer) => {
          firstByteMs ??= performance.now() - startedAt;
          chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: Buffer.concat(chunks).toString(),
            headersMs,
            firstByteMs,
            totalMs: performance.now() - startedAt,
          }),
        );
      },
    );
    call.on("error", reject);
    call.end(text);
  });
}
