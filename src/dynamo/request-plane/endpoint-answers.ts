/** Makes and sends the answers of all endpoints of this process, so many at a time. What a request is refused for is its acknowledgement. */
import type { ConnectionOptions } from "node:tls";
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import { MalformedMessage, type PayloadCodec } from "../encoding/value-reader.ts";
import { type HomeAddress, parseHome, sendAnswer } from "./answer-line.ts";
import type { Endpoint, EndpointServerCounters } from "./endpoint-contracts.ts";
import { readRequest } from "./request-reader.ts";

export interface EndpointAnswersSettings {
  readonly connectTimeoutMs: number;
  readonly clientTls: ConnectionOptions | undefined;
}

/** Answers that are being made or taken; a request beyond is refused as overload. */
const maxAnswers = 1024;

export class EndpointAnswers {
  readonly counters: EndpointServerCounters = { requests: 0, answered: 0, undelivered: 0, refused: 0, connections: 0 };
  readonly #settings: EndpointAnswersSettings;
  readonly #log: Logger;
  readonly #answers = new Set<() => void>();
  #failures = 0;

  constructor(settings: EndpointAnswersSettings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
  }

  /** The text of the acknowledgement: empty is yes. `endpoint` undefined: there is none of this name. */
  take(name: string, endpoint: Endpoint | undefined, payload: Buffer): string {
    this.counters.requests += 1;
    const refused = (text: string): string => {
      this.counters.refused += 1;
      return text;
    };
    if (endpoint === undefined) return refused(`Server unavailable: unknown endpoint ${name.slice(0, 300)}`);
    if (this.#answers.size >= maxAnswers) return refused("Server overloaded: too many answers under way");
    try {
      const { codec, home, body } = readRequest(payload);
      const address = parseHome(home.address);
      this.#send(address, home.subject, codec, endpoint(body, codec));
      return "";
    } catch (error) {
      if (error instanceof MalformedMessage) return refused(`Decode error: the request ${error.message}`);
      // An endpoint that fails costs its request, not the connection that others share.
      if (isLoggedAt(++this.#failures)) {
        this.#log.error({ error, endpoint: name, count: this.#failures }, "an endpoint failed");
      }
      return refused("Server error: the endpoint failed");
    }
  }

  close(): void {
    for (const end of this.#answers) end();
  }

  #send(address: HomeAddress, subject: string, codec: PayloadCodec, item: Buffer): void {
    const { clientTls: tls, connectTimeoutMs } = this.#settings;
    const end = sendAnswer({
      address,
      subject,
      codec,
      item,
      tls,
      connectTimeoutMs,
      ended: (isDelivered) => {
        this.#answers.delete(end);
        if (isDelivered) this.counters.answered += 1;
        else this.counters.undelivered += 1;
      },
    });
    this.#answers.add(end);
  }
}
