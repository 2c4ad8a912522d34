import com.github.teamtoken.NewToken;
import com.github.teamtoken.Secret;
import com.github.teamtoken.TeamTokenClient;
import com.github.teamtoken.TeamTokenException;
import com.github.teamtoken.v1.CreateNamedTokenRequest;
import com.github.teamtoken.v1.DeleteTokenRequest;
import com.github.teamtoken.v1.ErrorReason;
import com.github.teamtoken.v1.GenerateTokenRequest;
import com.github.teamtoken.v1.ListTokensRequest;
import com.github.teamtoken.v1.Outcome;
import com.github.teamtoken.v1.TeamToken;
import com.google.gson.JsonParser;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import com.google.protobuf.util.Timestamps;
import io.grpc.Status;
import java.io.ByteArrayOutputStream;
import java.io.NotSerializableException;
import java.io.ObjectOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashSet;
import java.util.List;
import java.util.Map;

/** What a caller does, against a real server that the environment describes. */
public class Scenario {
  static final Map<String, String> ENV = System.getenv();
  static final String TEAM = ENV.get("TEAM");
  static final HttpClient HTTP = HttpClient.newHttpClient();

  interface Scene {
    void play() throws Exception;
  }

  static void check(boolean right, Object what) {
    if (!right) {
      throw new AssertionError(what);
    }
  }

  static Path file(String name) {
    return Path.of(ENV.get(name));
  }

  static TeamTokenClient.Builder secured(String certificate, String key) throws Exception {
    return TeamTokenClient.builder(ENV.get("SECURED")).ca(file("CA")).certificate(file(certificate), file(key));
  }

  static void control(String path) throws Exception {
    HTTP.send(HttpRequest.newBuilder(URI.create(ENV.get("CONTROL") + path)).build(), HttpResponse.BodyHandlers.discarding());
  }

  /** Whether the upstream knows the secret. */
  static boolean works(Secret secret) throws Exception {
    var request =
        HttpRequest.newBuilder(URI.create(ENV.get("UPSTREAM") + "/api/v2/organizations/" + ENV.get("ORGANIZATION")))
            .header("Authorization", "Bearer " + secret.reveal())
            .build();
    return HTTP.send(request, HttpResponse.BodyHandlers.discarding()).statusCode() == 200;
  }

  static TeamTokenException fails(Scene call) throws Exception {
    try {
      call.play();
    } catch (TeamTokenException e) {
      return e;
    }
    throw new AssertionError("it did not fail");
  }

  static void tokensComeAndGo() throws Exception {
    try (var tokens = secured("CERT", "KEY").build()) {
      var first =
          tokens.generateToken(
              GenerateTokenRequest.newBuilder().setTeamId(TEAM).setExpiredAt(Timestamps.fromMillis(System.currentTimeMillis() + 86_400_000)).build());
      check(works(first.secret()) && first.token().getTeamId().equals(TEAM), first);
      NewToken second =
          tokens.generateToken(GenerateTokenRequest.newBuilder().setTeamId(TEAM).setExpectedTokenId(first.token().getId()).build());
      check(works(second.secret()) && !works(first.secret()), second);
      check(tokens.getToken(TEAM).getId().equals(second.token().getId()), "get");
      var named = tokens.createNamedToken(TEAM, "for <CI> \u2603");
      check(works(named.secret()) && tokens.getTokenById(named.token().getId()).getDescription().equals("for <CI> \u2603"), named);
      tokens.deleteTokenById(named.token().getId());
      check(!works(named.secret()), "it lives on");
      tokens.deleteToken(TEAM);
      check(!works(second.secret()), "it lives on");
      tokens.deleteToken(DeleteTokenRequest.newBuilder().setTeamId(TEAM).setAllowMissing(true).build());
      var gone = fails(() -> tokens.getToken(TEAM));
      check(
          gone.reason() == ErrorReason.ERROR_REASON_TEAM_NOT_FOUND_OR_FORBIDDEN
              && gone.outcome() == Outcome.OUTCOME_UNSPECIFIED
              && !gone.xRequestId().isEmpty(),
          gone);
    }
  }

  static void lists() throws Exception {
    try (var tokens = secured("CERT", "KEY").build()) {
      var ids = new HashSet<String>();
      for (var team : ENV.get("TEAMS").split(",")) {
        ids.add(tokens.generateToken(team).token().getId());
      }
      var request = ListTokensRequest.newBuilder().setOrganization(ENV.get("ORGANIZATION")).setPageSize(20).build();
      var listed = tokens.listTokens(request).map(TeamToken::getId).toList(); // over three pages
      check(listed.size() == 45 && ids.equals(new HashSet<>(listed)), listed.size());
      check(tokens.listTokens(request).limit(3).count() == 3, "it can be left early");
    }
  }

  static void replays() throws Exception {
    try (var tokens = TeamTokenClient.builder(ENV.get("LOSSY")).insecure().build()) {
      tokens.getToken(ENV.get("TEAMS").split(",")[1]); // so that there is a connection
      control("/lose");
      var made = tokens.generateToken(TEAM); // gRPC sends it again, and is given the first answer
      check(works(made.secret()) && tokens.getToken(TEAM).getId().equals(made.token().getId()), made);
      var again = tokens.generateToken(GenerateTokenRequest.newBuilder().setTeamId(TEAM).setRequestId(made.requestId()).build());
      check(again.equals(made), again);
    }
    try (var hasty = TeamTokenClient.builder(ENV.get("CLEAR")).insecure().timeout(Duration.ofMillis(500)).build();
        var tokens = TeamTokenClient.builder(ENV.get("CLEAR")).insecure().build()) {
      hasty.getToken(ENV.get("TEAMS").split(",")[1]);
      var request = GenerateTokenRequest.newBuilder().setTeamId(TEAM).setRequestId("late-java").build();
      control("/slow");
      var late = fails(() -> hasty.generateToken(request));
      check(late.code() == Status.Code.DEADLINE_EXCEEDED && late instanceof TeamTokenException.OutcomeUnknown, late);
      check(works(tokens.generateToken(request).secret()), "late");
    }
  }

  static void errors() throws Exception {
    var types =
        Map.of(
            "not_applied", TeamTokenException.NotApplied.class,
            "applied_undelivered", TeamTokenException.AppliedUndelivered.class,
            "unknown", TeamTokenException.OutcomeUnknown.class,
            "", TeamTokenException.OutcomeUnknown.class);
    try (var tokens = TeamTokenClient.builder(ENV.get("REASONS")).insecure().withoutRetries().build()) {
      for (var reason : ENV.get("REASON_NAMES").split(",")) {
        for (var outcome : types.keySet()) {
          var request = GenerateTokenRequest.newBuilder().setTeamId(outcome).setRequestId(reason).build();
          var e = fails(() -> tokens.generateToken(request));
          check(e.reason() == ErrorReason.valueOf("ERROR_REASON_" + reason) && e.getClass() == types.get(outcome), e);
          check(e.retryAfter().get().toMillis() == 1500 && e.violations().get(0).field().equals("team_id"), e);
        }
      }
    }
    try (var stranger = secured("STRANGER_CERT", "STRANGER_KEY").build()) {
      var e = fails(() -> stranger.generateToken(TEAM));
      check(e instanceof TeamTokenException.NotApplied && e.reason() == ErrorReason.ERROR_REASON_CALLER_NOT_ALLOWED, e);
    }
    try (var tokens = secured("CERT", "KEY").build()) {
      var e = fails(() -> tokens.createNamedToken(CreateNamedTokenRequest.newBuilder().setTeamId("team-x").build()));
      check(e.reason() == ErrorReason.ERROR_REASON_INVALID_FIELD && e.getMessage().contains("team_id"), e);
    }
    try (var nowhere = TeamTokenClient.builder("127.0.0.1:1").insecure().build()) {
      var e = fails(() -> nowhere.generateToken(TEAM));
      check(e instanceof TeamTokenException.OutcomeUnknown && e.reason() == ErrorReason.ERROR_REASON_UNSPECIFIED, e);
    }
    try {
      TeamTokenClient.builder("x").insecure().bearer(() -> "x").build();
      throw new AssertionError("a bearer token would be sent in the clear");
    } catch (IllegalArgumentException e) {
      check(e.getMessage().contains("in the clear"), e);
    }
  }

  static void secretsHide() throws Exception {
    var secret = new Secret("hunter2");
    var made = new NewToken(TeamToken.getDefaultInstance(), secret, "r");
    for (var text : List.of(secret.toString(), "" + secret, List.of(secret).toString(), made.toString(), String.format("%s", secret))) {
      check(!text.contains("hunter2") && text.contains("[secret]"), text);
    }
    check(secret.equals(new Secret("hunter2")) && !secret.equals(new Secret("x")) && secret.reveal().equals("hunter2"), "equal");
    try (var out = new ObjectOutputStream(new ByteArrayOutputStream())) {
      out.writeObject(secret);
      throw new AssertionError("it was written down");
    } catch (NotSerializableException e) {
      check(!e.getMessage().contains("hunter2"), e);
    }
  }

  static void golden() throws Exception {
    for (var element : JsonParser.parseString(Files.readString(file("GOLDEN"))).getAsJsonArray()) {
      var g = element.getAsJsonObject();
      var type = Class.forName("com.github.teamtoken.v1." + g.get("Type").getAsString());
      var builder = (Message.Builder) type.getMethod("newBuilder").invoke(null);
      var binary = Base64.getDecoder().decode(g.get("Binary").getAsString());
      var message = builder.clone().mergeFrom(binary).build();
      var parsed = builder.clone();
      JsonFormat.parser().merge(g.get("JSON").toString(), parsed);
      check(parsed.build().equals(message), message);
      check(JsonParser.parseString(JsonFormat.printer().print(message)).equals(g.get("JSON")), JsonFormat.printer().print(message));
      check(Arrays.equals(message.toByteArray(), binary), message);
    }
  }

  public static void main(String[] args) throws Exception {
    play("tokensComeAndGo", Scenario::tokensComeAndGo);
    play("lists", Scenario::lists);
    play("replays", Scenario::replays);
    play("errors", Scenario::errors);
    play("secretsHide", Scenario::secretsHide);
    play("golden", Scenario::golden);
  }

  static void play(String name, Scene scene) throws Exception {
    scene.play();
    System.out.println("ok " + name);
  }
}
