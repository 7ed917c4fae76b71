/** The fleet as the plugin holds it: not there before the configuration is in force, and gone when it is replaced. */
import type { EndpointStoreView } from "../../data/store-view.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { RouteLookup, RouteTable, SetRoute } from "../fleet/route-table.ts";
import type { SetRuntime } from "../fleet/set-runtime.ts";

const none: ReadonlyMap<string, SetRuntime> = new Map();

export class FleetRoutes implements RouteTable {
  #fleet: Fleet | undefined;
  #starting: Promise<void> = Promise.resolve();
  #failure: string | undefined;
  #wasReady = false;
  #unsubscribe: () => void = () => undefined;

  begin(create: () => Promise<Fleet>, endpoints: Pick<EndpointStoreView, "subscribe">, log: Logger): void {
    // A worker may serve what waits only once the frontend beside it is an endpoint.
    this.#unsubscribe = endpoints.subscribe({
      added: () => {
        for (const { router } of this.runtimes.values()) router.capacityChanged();
      },
    });
    this.#starting = this.#start(create).catch((error: unknown) => {
      this.#failure = `the router cannot reach its workers: ${error instanceof Error ? error.message : String(error)}`;
      log.error({ error }, "the router of Dynamo's workers cannot begin");
    });
  }

  async #start(create: () => Promise<Fleet>): Promise<void> {
    this.#fleet = await create();
    await this.#fleet.start();
  }

  find(model: string, random: () => number): RouteLookup {
    if (this.#fleet === undefined) return { kind: "not-ready", reason: "the router has not begun" };
    if (this.#failure !== undefined) return { kind: "not-ready", reason: this.#failure };
    return this.#fleet.find(model, random);
  }

  suspect(route: SetRoute, workerId: bigint, isCertain: boolean): void {
    this.#fleet?.suspect(route, workerId, isCertain);
  }

  get runtimes(): ReadonlyMap<string, SetRuntime> {
    return this.#fleet?.runtimes ?? none;
  }

  state(): Readonly<Record<string, unknown>> {
    return {
      failure: this.#failure ?? null,
      sets: [...this.runtimes.values()].map((runtime) => runtime.state()),
    };
  }

  /** True for good once every set that can serve has its tokenizer and the workers' past has been asked for. */
  get isReady(): boolean {
    this.#wasReady ||= this.#failure === undefined && this.#fleet?.isSettled === true;
    return this.#wasReady;
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    await this.#starting;
    await this.#fleet?.close();
  }
}
