/**
 * ZeroMQ for engine events, loaded when the first socket is wanted, with a context of its own: the default one allows 1,023 sockets, and an endpoint
 * takes three of them.
 */
import type { Context, Dealer, Subscriber } from "zeromq";

const maxSockets = 65_535;

export interface ZeromqContext {
  readonly context: Context;
  readonly Dealer: typeof Dealer;
  readonly Subscriber: typeof Subscriber;
}

let loading: Promise<ZeromqContext> | undefined;

/** The same context for all; it lives as long as the process. */
export function loadZeromq(): Promise<ZeromqContext> {
  loading ??= import("zeromq").then((zeromq) => ({
    context: new zeromq.Context({ maxSockets }),
    Dealer: zeromq.Dealer,
    Subscriber: zeromq.Subscriber,
  }));
  return loading;
}

/** What every socket is made with. IPv6 only for those that need it: not every machine has it. */
export function socketOptions({ context }: ZeromqContext, endpoint: string) {
  return { context, linger: 0, ipv6: endpoint.includes("[") } as const;
}
