/** Picks the event plane that the environment asks for: ZeroMQ unless DYN_EVENT_PLANE says nats. */
import type { Logger } from "../../telemetry/log.ts";
import type { EventPlane } from "./event-plane.ts";
import { NatsEventPlane } from "./nats-plane.ts";
import { type Environment, eventPlaneSettings } from "./settings.ts";
import { ZmqEventPlane } from "./zmq-plane.ts";

/** Throws an error that names the variable at fault. Nothing is connected to before the first `subscribe`, but NATS itself. */
export function createEventPlane(env: Environment, log: Logger): EventPlane {
  const settings = eventPlaneSettings(env);
  return settings.kind === "nats" ? new NatsEventPlane(settings, log) : new ZmqEventPlane(settings, log);
}
