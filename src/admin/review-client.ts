/**
 * Posts reviews to the Kubernetes API server as the pod's service account. The token and the CA are read for every review, for the kubelet
 * rotates them; an answer that is late, long or not what was asked for is an error.
 */
import { readFile } from "node:fs/promises";
import { request } from "node:https";

export interface ReviewClient {
  /** The `status` of the review that the API server answers. Throws ReviewError. */
  review(path: string, body: unknown): Promise<Readonly<Record<string, unknown>>>;
}

export interface ReviewClientOptions {
  readonly host: string;
  readonly port: number;
  /** Files of the pod's service account. */
  readonly tokenFile: string;
  readonly caFile: string;
  readonly timeoutMs?: number;
}

/** The API server could not be asked, or answered nonsense. */
export class ReviewError extends Error {
  readonly code = "REVIEW_FAILED";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ReviewError";
  }
}

/** A scraper gives up after 10 s by default and two reviews are asked for it. */
const defaultTimeoutMs = 4_000;
/** A user in hundreds of groups takes a few KiB. */
const maxAnswerBytes = 1024 * 1024;

export function createReviewClient(options: ReviewClientOptions): ReviewClient {
  return {
    async review(path, body) {
      let token: string;
      let ca: string;
      try {
        [token, ca] = await Promise.all([readFile(options.tokenFile, "utf8"), readFile(options.caFile, "utf8")]);
      } catch (cause) {
        throw new ReviewError("the service account of this pod cannot be read", { cause });
      }
      const { status, text } = await post(options, path, JSON.stringify(body), token.trim(), ca);
      if (status < 200 || status > 299) throw new ReviewError(`${path} was answered with status ${status}`);
      return statusOf(path, text);
    },
  };
}

function statusOf(path: string, text: string): Readonly<Record<string, unknown>> {
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    // The parser's message quotes the answer, which holds the token that was asked about.
    throw new ReviewError(`${path} was answered with no JSON`);
  }
  const status = isRecord(answer) ? answer["status"] : undefined;
  if (!isRecord(status)) throw new ReviewError(`${path} was answered without a status`);
  return status;
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function post(
  options: ReviewClientOptions,
  path: string,
  body: string,
  token: string,
  ca: string,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (message: string, cause?: unknown): void => {
      clearTimeout(timer);
      reject(new ReviewError(message, { cause }));
      sent.destroy();
    };
    const sent = request(
      {
        host: options.host,
        port: options.port,
        path,
        method: "POST",
        ca,
        agent: false,
        headers: {
          authorization: `Bearer ${token}`,
          "content-type": "application/json",
          "content-length": Buffer.byteLength(body),
          accept: "application/json",
          "user-agent": "signalbox",
        },
      },
      (answer) => {
        const chunks: Buffer[] = [];
        let length = 0;
        answer.on("data", (chunk: Buffer) => {
          length += chunk.length;
          if (length > maxAnswerBytes) fail(`${path} was answered with more than ${maxAnswerBytes} bytes`);
          else chunks.push(chunk);
        });
        answer.on("error", (error) => fail(`the answer to ${path} broke off`, error));
        answer.on("end", () => {
          clearTimeout(timer);
          resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(chunks).toString("utf8") });
        });
      },
    );
    const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    const timer = setTimeout(() => fail(`${path} was not answered within ${timeoutMs} ms`), timeoutMs);
    sent.on("error", (error) => fail(`${path} cannot be asked`, error));
    sent.end(body);
  });
}
