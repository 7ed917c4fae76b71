/**
 * A copy of a long body, made a slice a turn of the loop: fresh pages and tens of megabytes at once would hold everybody else up. A short body is
 * copied at once.
 */

/** Well under a millisecond, its new pages included. */
const sliceBytes = 512 * 1024;

export interface PendingCopy {
  /** `copied` is not called after it. */
  cancel(): void;
}

/** `body` must stay as it is until `copied` is called, which is before this returns for a body of one slice. */
export function copyInSlices(body: Uint8Array, copied: (copy: Uint8Array<ArrayBuffer>) => void): PendingCopy {
  if (body.length <= sliceBytes) {
    copied(new Uint8Array(body));
    return { cancel: () => undefined };
  }
  // Not zeroed first, and no part of a pool: it can be handed to another thread.
  const { buffer } = Buffer.allocUnsafeSlow(body.length);
  const copy = new Uint8Array(buffer);
  let next: NodeJS.Immediate | undefined;
  let at = 0;
  const step = (): void => {
    const end = Math.min(at + sliceBytes, body.length);
    copy.set(body.subarray(at, end), at);
    at = end;
    if (at === body.length) copied(copy);
    else next = setImmediate(step);
  };
  step();
  return { cancel: () => clearImmediate(next) };
}
