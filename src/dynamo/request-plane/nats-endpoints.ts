/**
 * Endpoints that are asked over NATS (DYN_REQUEST_PLANE=nats), where Dynamo's clients look for nothing else: a subject for each, of the instance
 * alone, and the acknowledgement as its reply (dynamo-runtime 1.6.1, transports/nats.rs). A connection that is lost is made again for ever.
 */
import { connect, type Msg, type NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "../../telemetry/log.ts";
import { connectionOptions } from "../nats/connection-options.ts";
import type { NatsSettings } from "../nats/settings.ts";
import { EndpointAnswers, type EndpointAnswersSettings } from "./endpoint-answers.ts";
import type { Endpoint, EndpointInstance, EndpointServer, ServedEndpoint } from "./endpoint-contracts.ts";

/** Rejects when the server cannot be reached. */
export async function createNatsEndpoints(
  log: Logger,
  nats: NatsSettings,
  settings: EndpointAnswersSettings,
): Promise<EndpointServer> {
  return new NatsEndpoints(await connect(await connectionOptions(nats)), new EndpointAnswers(settings, log));
}

class NatsEndpoints implements EndpointServer {
  readonly #connection: NatsConnection;
  readonly #answers: EndpointAnswers;
  readonly #subjects = new Set<string>();

  constructor(connection: NatsConnection, answers: EndpointAnswers) {
    this.#connection = connection;
    this.#answers = answers;
  }

  get counters(): EndpointServer["counters"] {
    return this.#answers.counters;
  }

  serve({ namespace, component, endpoint: name, instanceId }: EndpointInstance, endpoint: Endpoint): ServedEndpoint {
    const subject = `${namespace}_${component}.${name}-${instanceId.toString(16)}`;
    if (this.#subjects.has(subject)) throw new RangeError(`${subject} is served already`);
    this.#subjects.add(subject);
    const subscription = this.#connection.subscribe(subject, {
      callback: (error, message) => {
        if (error === null) this.#take(subject, endpoint, message);
      },
    });
    return {
      transport: { kind: "nats", subject },
      end: () => {
        this.#subjects.delete(subject);
        subscription.unsubscribe();
      },
    };
  }

  async close(): Promise<void> {
    this.#answers.close();
    await this.#connection.close();
  }

  #take(subject: string, endpoint: Endpoint, message: Msg): void {
    const { data } = message;
    const payload = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    message.respond(Buffer.from(this.#answers.take(subject, endpoint, payload)));
  }
}
