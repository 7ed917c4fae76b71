/** What happens to a watch of the API server → the log: being away and being back once each, the rest for whoever looks closely. */
import { KubernetesApiError } from "../../../net/kubernetes/api-client.ts";
import type { ListWatchEvent } from "../../../net/kubernetes/list-watch.ts";
import type { Logger } from "../../../telemetry/log.ts";

/** `what` is watched, in words, such as "pods of app=vllm". */
export function reportWatch(what: string, event: ListWatchEvent, log: Logger): void {
  switch (event.kind) {
    case "listed":
      if (event.leftOut > 0)
        log.error({ what, leftOut: event.leftOut }, "more Kubernetes objects than are read; the rest is left out");
      log.debug({ what, items: event.items, tookMs: event.tookMs }, "Kubernetes objects listed");
      break;
    case "away":
      log.warn({ what, error: event.error }, `${awayText(event.error)}; what was last known of ${what} is kept`);
      break;
    case "back":
      log.info({ what }, `the Kubernetes API is back; ${what} are current`);
      break;
    case "absent":
      log.info({ what }, `the Kubernetes API does not know ${what}`);
      break;
    case "expired":
      log.debug({ what }, "the watch's version is gone; a new list follows");
      break;
    case "unreadable":
      log.warn({ what, key: event.key, error: event.error }, "a Kubernetes object cannot be read and is left out");
      break;
    default:
      event satisfies never;
  }
}

/** A refusal is somebody's to mend; being away mends itself. */
function awayText(error: unknown): string {
  const status = error instanceof KubernetesApiError ? error.status : 0;
  if (status === 401) return "the Kubernetes API does not know who asks";
  if (status === 403) return "the Kubernetes API does not allow it: a Role is missing";
  if (status === 404) return "the Kubernetes API has no such resource: its CustomResourceDefinition is missing";
  return "the Kubernetes API is away";
}
