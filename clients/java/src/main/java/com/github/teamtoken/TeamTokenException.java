package com.github.teamtoken;

import com.github.teamtoken.v1.ErrorReason;
import com.github.teamtoken.v1.Outcome;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/** A call that failed. It holds no secret. */
public class TeamTokenException extends RuntimeException {
  /** A change that failed, and changed nothing, for certain. */
  public static final class NotApplied extends TeamTokenException {
    private NotApplied(Details details) {
      super(details);
    }
  }

  /** A change that was carried out, and whose result can't be had. */
  public static final class AppliedUndelivered extends TeamTokenException {
    private AppliedUndelivered(Details details) {
      super(details);
    }
  }

  /**
   * A change of which nobody can tell yet whether it was carried out. The same call, under the same request id, is
   * told when it is known. An error that the service did not answer is one of these.
   */
  public static final class OutcomeUnknown extends TeamTokenException {
    private OutcomeUnknown(Details details) {
      super(details);
    }
  }

  /** A field of a request that is wrong, and how. */
  public record Violation(String field, String description) {}

  private static final class Details {
    Status status;
    String reasonName = "";
    Outcome outcome = Outcome.OUTCOME_UNSPECIFIED;
    Duration retryAfter;
    String xRequestId = "";
    List<Violation> violations = List.of();
  }

  private final transient Details details;

  private TeamTokenException(Details details) {
    super(text(details), null, false, true);
    this.details = details;
  }

  /** gRPC's status code. */
  public Status.Code code() {
    return details.status.getCode();
  }

  /** Why, as the contract names it; unspecified if the service did not say it, or this version does not know it. */
  public ErrorReason reason() {
    try {
      return ErrorReason.valueOf("ERROR_REASON_" + details.reasonName);
    } catch (IllegalArgumentException e) {
      return ErrorReason.ERROR_REASON_UNSPECIFIED;
    }
  }

  /** The reason as it came, without prefix; empty if the service did not say it. */
  public String reasonName() {
    return details.reasonName;
  }

  /** Whether anything was changed; unspecified of a call that only reads. */
  public Outcome outcome() {
    return details.outcome;
  }

  /** How long to wait before another call, if the service said it. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(details.retryAfter);
  }

  /** The `x-request-id` of the call, by which it is found in the service's logs: not the request id of a request. */
  public String xRequestId() {
    return details.xRequestId;
  }

  /** What is wrong with the request. */
  public List<Violation> violations() {
    return details.violations;
  }

  private static String text(Details d) {
    var text = new StringBuilder();
    text.append(d.status.getDescription() == null ? "" : d.status.getDescription());
    for (var v : d.violations) {
      text.append(' ').append(v.field()).append(": ").append(v.description()).append('.');
    }
    text.append(" [").append(d.status.getCode());
    for (var word : List.of(d.reasonName, name(d.outcome), d.xRequestId)) {
      if (!word.isEmpty()) {
        text.append(' ').append(word);
      }
    }
    return text.append(']').toString();
  }

  private static String name(Outcome outcome) {
    return outcome == Outcome.OUTCOME_UNSPECIFIED ? "" : outcome.name().substring("OUTCOME_".length()).toLowerCase(Locale.ROOT);
  }

  /** The exception of a call, by what gRPC threw. */
  static TeamTokenException of(StatusRuntimeException thrown, boolean changes) {
    var d = new Details();
    d.status = thrown.getStatus();
    var status = StatusProto.fromThrowable(thrown);
    for (var detail : status == null ? List.<Any>of() : status.getDetailsList()) {
      try {
        read(detail, d);
      } catch (InvalidProtocolBufferException e) {
        continue; // as if it were not there
      }
    }
    if (changes && d.outcome == Outcome.OUTCOME_UNSPECIFIED) {
      d.outcome = Outcome.OUTCOME_UNKNOWN;
    }
    return switch (d.outcome) {
      case OUTCOME_NOT_APPLIED -> new NotApplied(d);
      case OUTCOME_APPLIED_UNDELIVERED -> new AppliedUndelivered(d);
      case OUTCOME_UNKNOWN -> new OutcomeUnknown(d);
      default -> new TeamTokenException(d);
    };
  }

  private static void read(Any detail, Details d) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      var info = detail.unpack(ErrorInfo.class);
      d.reasonName = info.getReason();
      var outcome = info.getMetadataOrDefault("outcome", "");
      if (!outcome.isEmpty()) {
        try {
          d.outcome = Outcome.valueOf("OUTCOME_" + outcome.toUpperCase(Locale.ROOT));
        } catch (IllegalArgumentException e) {
          d.outcome = Outcome.OUTCOME_UNKNOWN;
        }
      }
    } else if (detail.is(RetryInfo.class)) {
      var delay = detail.unpack(RetryInfo.class).getRetryDelay();
      d.retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
    } else if (detail.is(RequestInfo.class)) {
      d.xRequestId = detail.unpack(RequestInfo.class).getRequestId();
    } else if (detail.is(BadRequest.class)) {
      var violations = new ArrayList<Violation>();
      for (var v : detail.unpack(BadRequest.class).getFieldViolationsList()) {
        violations.add(new Violation(v.getField(), v.getDescription()));
      }
      d.violations = List.copyOf(violations);
    }
  }
}
