/** Rewrites for templates that refuse a system message after the first, or two user messages in a row; only what the template was found to need. */
import type { Message } from "./messages.ts";

export interface OrderRules {
  readonly demotesLaterSystem: boolean;
  readonly joinsUsers: boolean;
}

export function orderMessages(messages: Message[], rules: OrderRules): Message[] {
  let ordered = messages;
  if (rules.demotesLaterSystem) ordered = demoteLaterSystem(ordered);
  if (rules.joinsUsers) ordered = joinUsers(ordered);
  return ordered;
}

/** The leading system messages become one; later ones become user messages where they stand, so the prefix before them stays the same. */
function demoteLaterSystem(messages: Message[]): Message[] {
  const leading = messages.findIndex((message) => message["role"] !== "system");
  const systems = leading < 0 ? messages.length : leading;
  const [first, ...others] = messages.slice(0, systems);
  if (first !== undefined) for (const other of others) append(first, other["content"]);
  const rest = messages.slice(systems);
  for (const message of rest) if (message["role"] === "system") message["role"] = "user";
  return first === undefined ? rest : [first, ...rest];
}

function joinUsers(messages: readonly Message[]): Message[] {
  const joined: Message[] = [];
  for (const message of messages) {
    const last = joined.at(-1);
    if (last !== undefined && last["role"] === "user" && message["role"] === "user") append(last, message["content"]);
    else joined.push(message);
  }
  return joined;
}

/** The content moves to the end of the message's fields, as it does there. */
function append(target: Message, source: unknown): void {
  const content = target["content"];
  delete target["content"];
  target["content"] = joinContents(content, source);
}

function joinContents(first: unknown, second: unknown): unknown {
  const part = (text: string): unknown[] => (text === "" ? [] : [{ type: "text", text }]);
  if (first === undefined || first === null) return second;
  if (typeof first === "string" && typeof second === "string") {
    return first !== "" && second !== "" ? `${first}\n\n${second}` : first + second;
  }
  if (Array.isArray(first) && Array.isArray(second)) return [...(first as unknown[]), ...(second as unknown[])];
  if (Array.isArray(first) && typeof second === "string") return [...(first as unknown[]), ...part(second)];
  if (typeof first === "string" && Array.isArray(second)) return [...part(first), ...(second as unknown[])];
  return first;
}
