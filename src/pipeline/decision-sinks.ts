/** Several listeners to decisions as one. A request that only one of them records costs no more than with that one alone. */
import type { DecisionRecording, DecisionSink } from "./decision-sink.ts";

export function bothSinks(first: DecisionSink, second: DecisionSink): DecisionSink {
  return {
    begin: (request) => {
      const a = first.begin(request);
      const b = second.begin(request);
      if (a === undefined || b === undefined) return a ?? b;
      return both(a, b);
    },
  };
}

function both(a: DecisionRecording, b: DecisionRecording): DecisionRecording {
  return {
    candidates: (endpoints) => {
      a.candidates(endpoints);
      b.candidates(endpoints);
    },
    screened: (...step) => {
      a.screened(...step);
      b.screened(...step);
    },
    planned: (planner, explain) => {
      a.planned?.(planner, explain);
      b.planned?.(planner, explain);
    },
    profileStarted: (profile) => {
      a.profileStarted?.(profile);
      b.profileStarted?.(profile);
    },
    filtered: (...step) => {
      a.filtered(...step);
      b.filtered(...step);
    },
    scored: (...step) => {
      a.scored(...step);
      b.scored(...step);
    },
    picked: (...step) => {
      a.picked(...step);
      b.picked(...step);
    },
    rejected: (...outcome) => {
      a.rejected(...outcome);
      b.rejected(...outcome);
    },
    scheduled: (...outcome) => {
      a.scheduled(...outcome);
      b.scheduled(...outcome);
    },
    ended: (...end) => {
      a.ended(...end);
      b.ended(...end);
    },
  };
}
