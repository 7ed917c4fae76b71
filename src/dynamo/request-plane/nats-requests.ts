/**
 * Requests to workers that are reached over NATS (DYN_REQUEST_PLANE=nats): the same two-part payload as over TCP, sent to the instance's subject and
 * acknowledged by an empty reply; the answer comes by TCP to our listener all the same. The connection is made with the first request.
 */
import {
  connect,
  headers as createHeaders,
  type NatsConnection,
  NoRespondersError,
  RequestError,
} from "@nats-io/transport-node";
import { connectionOptions } from "../nats/connection-options.ts";
import type { NatsSettings } from "../nats/settings.ts";
import { readAck } from "./request-frame.ts";
import type { AckHandler } from "./worker-connection.ts";

/** A NATS service answers `$SRV.INFO.<name>` with its endpoints; Dynamo's are named like the first token of their subjects. */
const infoSubject = "$SRV.INFO.";

export class NatsRequests {
  readonly #settings: NatsSettings;
  #connection: Promise<NatsConnection> | undefined;
  #isClosed = false;

  constructor(settings: NatsSettings) {
    this.#settings = settings;
  }

  /** `onAck` is called once, later. A payload that the server does not take is "rejected". */
  send(subject: string, headers: Readonly<Record<string, string>>, payload: Uint8Array, onAck: AckHandler): void {
    this.#request(subject, headers, payload).then(
      (text) => onAck(readAck(text), text.toString("utf8", 0, maxMessageBytes)),
      (error: unknown) => {
        if (error instanceof PayloadTooLarge) onAck("rejected", error.message);
        else onAck("unreachable", `${subject}: ${messageOf(error)}`);
      },
    );
  }

  /** Whether a process serves the subject now. False too where the server cannot be asked. */
  async isServed(subject: string, timeoutMs: number): Promise<boolean> {
    const service = subject.slice(0, subject.indexOf("."));
    try {
      const connection = await this.#connected();
      const answers = await connection.requestMany(`${infoSubject}${service}`, "", {
        strategy: "timer",
        maxWait: timeoutMs,
      });
      for await (const answer of answers) {
        if (subjectsOf(answer.data).includes(subject)) return true;
      }
    } catch {
      // Nobody of that service is there, or the server is away.
    }
    return false;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const connection = await this.#connection?.catch(() => undefined);
    await connection?.close();
  }

  async #request(subject: string, headers: Readonly<Record<string, string>>, payload: Uint8Array): Promise<Buffer> {
    const connection = await this.#connected();
    const most = connection.info?.max_payload ?? Number.POSITIVE_INFINITY;
    if (payload.byteLength > most) throw new PayloadTooLarge(`the request is larger than NATS takes (${most} bytes)`);
    const named = createHeaders();
    for (const [name, value] of Object.entries(headers)) named.set(name, value);
    const { data } = await connection.request(subject, payload, {
      timeout: this.#settings.requestTimeoutMs,
      headers: named,
    });
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  }

  /** Tried anew with the next request where it failed. */
  async #connected(): Promise<NatsConnection> {
    if (this.#isClosed) throw new Error("the request plane is closed");
    this.#connection ??= this.#connect();
    try {
      return await this.#connection;
    } catch (error) {
      this.#connection = undefined;
      throw error;
    }
  }

  async #connect(): Promise<NatsConnection> {
    return connect(await connectionOptions(this.#settings));
  }
}

class PayloadTooLarge extends Error {}

/** Of an acknowledgement; it goes into logs. */
const maxMessageBytes = 1000;

function messageOf(error: unknown): string {
  const isUnserved = error instanceof NoRespondersError || (error instanceof RequestError && error.isNoResponders());
  if (isUnserved) return "no process serves it";
  return error instanceof Error ? error.message : String(error);
}

function subjectsOf(info: Uint8Array): readonly string[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(info.buffer, info.byteOffset, info.byteLength).toString("utf8"));
  } catch {
    return [];
  }
  const endpoints = (parsed as { readonly endpoints?: unknown } | null)?.endpoints;
  if (!Array.isArray(endpoints)) return [];
  return endpoints.flatMap((endpoint: unknown) => {
    const subject = (endpoint as { readonly subject?: unknown } | null)?.subject;
    return typeof subject === "string" ? [subject] : [];
  });
}
