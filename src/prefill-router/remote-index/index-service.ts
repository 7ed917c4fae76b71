/** The indices that this process serves to other routers, by component, and the port at which they are asked for. The registration is the fleet's. */
import type { EndpointServer } from "../../dynamo/request-plane/endpoint-contracts.ts";
import type { Component } from "./index-instances.ts";
import { pause } from "./pause.ts";
import { ServedComponent, type ServedComponentInit, type ServedIndex } from "./served-component.ts";

export interface IndexServiceInit extends Omit<ServedComponentInit, "component" | "server"> {
  /** Binds the port, or connects to NATS; may be called again after it has rejected. */
  readonly listen: () => Promise<EndpointServer>;
}

/** A router whose configuration was replaced keeps its port until its last request has ended. */
const listenRetryMs = 1000;

/** A set whose card changes is gone for a moment: its endpoint need not go with it. */
const lingerMs = 5000;

export class IndexService {
  readonly #init: IndexServiceInit;
  readonly #components = new Map<string, ServedComponent>();
  /** By component, until it is served again. */
  readonly #lingering = new Map<string, NodeJS.Timeout>();
  readonly #closing = new Map<string, Promise<void>>();
  readonly #ending = new AbortController();
  /** Undefined where it was closed before the port could be had. */
  readonly #server: Promise<EndpointServer | undefined>;

  constructor(init: IndexServiceInit) {
    this.#init = init;
    this.#server = this.#listen();
  }

  /** Answers for a model on a component from now on; returns what ends that. */
  serve(component: Component, model: string, index: ServedIndex): () => void {
    if (this.#ending.signal.aborted) return () => undefined;
    const key = `${component.namespace}/${component.component}`;
    clearTimeout(this.#lingering.get(key));
    this.#lingering.delete(key);
    let served = this.#components.get(key);
    if (served === undefined) {
      const { namespace, component: name } = component;
      const after = this.#closing.get(key) ?? Promise.resolve();
      served = new ServedComponent(
        { ...this.#init, server: this.#server, component: { namespace, component: name } },
        after,
      );
      this.#components.set(key, served);
    }
    if (!served.add(model, index)) {
      this.#init.log.error({ ...component, model }, "an index is not served: another set of this model is");
      return () => undefined;
    }
    const of = served;
    return () => {
      of.remove(model);
      if (of.isEmpty && !this.#ending.signal.aborted) this.#linger(key, of);
    };
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return Object.fromEntries(Array.from(this.#components, ([key, component]) => [key, component.state()]));
  }

  /** The records go before the port does. */
  async close(): Promise<void> {
    this.#ending.abort();
    for (const timer of this.#lingering.values()) clearTimeout(timer);
    await Promise.all([...[...this.#components.values()].map((served) => served.close()), ...this.#closing.values()]);
    this.#components.clear();
    await (await this.#server)?.close();
  }

  async #listen(): Promise<EndpointServer | undefined> {
    const { signal } = this.#ending;
    for (let isTold = false; !signal.aborted; ) {
      try {
        return await this.#init.listen();
      } catch (error) {
        if (!isTold) this.#init.log.error({ error }, "served indices cannot be asked for yet; tried again");
        isTold = true;
        await pause(listenRetryMs, signal);
      }
    }
    return undefined;
  }

  #linger(key: string, served: ServedComponent): void {
    const timer = setTimeout(() => {
      this.#lingering.delete(key);
      this.#components.delete(key);
      const closed = served.close().then(() => {
        if (this.#closing.get(key) === closed) this.#closing.delete(key);
      });
      this.#closing.set(key, closed);
    }, lingerMs);
    timer.unref();
    this.#lingering.set(key, timer);
  }
}
