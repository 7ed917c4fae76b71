/** Subjects of the event plane: what a topic of a scope is called on NATS and at a ZeroMQ broker (dynamo-runtime 1.6.1, discovery/mod.rs). */
import type { EventScope } from "../records.ts";

export function subjectPrefix({ namespace, component, endpoint }: EventScope): string {
  let prefix = `namespace.${encodeSegment(namespace)}`;
  if (component === undefined) return prefix;
  prefix += `.component.${encodeSegment(component)}`;
  return endpoint === undefined ? prefix : `${prefix}.endpoint.${encodeSegment(endpoint)}`;
}

export function subjectOf(scope: EventScope, topic: string): string {
  return `${subjectPrefix(scope)}.${encodeSegment(topic)}`;
}

export function isSameScope(one: EventScope, other: EventScope): boolean {
  return one.namespace === other.namespace && one.component === other.component && one.endpoint === other.endpoint;
}

/** Every byte but letters, digits, "-" and "_" as %XX, so that no name can hold a wildcard or a dot. */
export function encodeSegment(segment: string): string {
  let encoded = "";
  for (const byte of Buffer.from(segment)) {
    const character = String.fromCharCode(byte);
    encoded += /[A-Za-z0-9_-]/.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}
