/**
 * Who may read the metrics port inside Kubernetes, as the reference decides it: a TokenReview says whose the bearer token is, a
 * SubjectAccessReview whether that user may read the path. Whatever goes wrong on the way, nobody is let in.
 */
import { createHash } from "node:crypto";
import type { Access } from "./http-server.ts";
import { isRecord, type ReviewClient } from "./review-client.ts";

export interface MetricsAccessOptions {
  readonly client: ReviewClient;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly onError: (error: unknown) => void;
}

/** A verdict is believed this long: a revoked token works no longer than that, a new permission waits no longer than that. */
const allowedForMs = 60_000;
const refusedForMs = 10_000;
const maxVerdicts = 512;
/** Reviews under way; guesses at tokens must not become a flood on the API server. */
const maxReviews = 16;

interface User {
  readonly username: string;
  readonly uid: unknown;
  readonly groups: unknown;
  readonly extra: unknown;
}

type Authorize = (authorization: string | undefined, path: string, verb: string) => Promise<Access>;

/** Verdicts are cached by a hash of token, path and verb; questions alike that come at once are asked once. */
export function createMetricsAccess({ client, now, onError }: MetricsAccessOptions): Authorize {
  const verdicts = new Map<string, { readonly access: Access; readonly untilMs: number }>();
  const asking = new Map<string, Promise<Access>>();

  const remember = (key: string, access: Access): void => {
    if (access === "unavailable") return;
    verdicts.delete(key);
    for (const oldest of verdicts.keys()) {
      if (verdicts.size < maxVerdicts) break;
      verdicts.delete(oldest);
    }
    verdicts.set(key, { access, untilMs: now() + (access === "allowed" ? allowedForMs : refusedForMs) });
  };

  const review = async (token: string, path: string, verb: string): Promise<Access> => {
    try {
      const user = await userOf(client, token);
      if (user === undefined) return "unauthenticated";
      return (await mayRead(client, user, path, verb)) ? "allowed" : "forbidden";
    } catch (error) {
      onError(error);
      return "unavailable";
    }
  };

  return async (authorization, path, verb) => {
    const token = bearerOf(authorization);
    if (token === undefined) return "unauthenticated";
    const key = createHash("sha256").update(`${verb} ${path}\n${token}`).digest("base64");
    const known = verdicts.get(key);
    if (known !== undefined && now() < known.untilMs) return known.access;
    const underWay = asking.get(key);
    if (underWay !== undefined) return await underWay;
    if (asking.size >= maxReviews) return "unavailable";
    const asked = review(token, path, verb).finally(() => asking.delete(key));
    asking.set(key, asked);
    const access = await asked;
    remember(key, access);
    return access;
  };
}

/** RFC 6750 §2.1; the scheme in any case. */
function bearerOf(authorization: string | undefined): string | undefined {
  if (authorization === undefined || authorization.slice(0, 7).toLowerCase() !== "bearer ") return undefined;
  const token = authorization.slice(7).trim();
  return token === "" || token.includes(" ") ? undefined : token;
}

async function userOf(client: ReviewClient, token: string): Promise<User | undefined> {
  const status = await client.review("/apis/authentication.k8s.io/v1/tokenreviews", {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenReview",
    spec: { token },
  });
  if (status["authenticated"] !== true) return undefined;
  const user = status["user"];
  if (!isRecord(user) || typeof user["username"] !== "string" || user["username"] === "") {
    throw new Error("the TokenReview authenticated nobody by name");
  }
  return { username: user["username"], uid: user["uid"], groups: user["groups"], extra: user["extra"] };
}

async function mayRead(client: ReviewClient, user: User, path: string, verb: string): Promise<boolean> {
  const status = await client.review("/apis/authorization.k8s.io/v1/subjectaccessreviews", {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    spec: {
      user: user.username,
      uid: user.uid,
      groups: user.groups,
      extra: user.extra,
      nonResourceAttributes: { path, verb },
    },
  });
  return status["allowed"] === true && status["denied"] !== true;
}
