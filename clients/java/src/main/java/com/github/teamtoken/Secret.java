package com.github.teamtoken;

import java.io.NotSerializableException;
import java.io.ObjectOutputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;

/** A token's secret, which prints as {@code [secret]}; {@link #reveal} shows it. */
public final class Secret {
  private final transient String text;

  /** Holds a text. */
  public Secret(String text) {
    this.text = text;
  }

  /** The secret itself. */
  public String reveal() {
    return text;
  }

  @Override
  public String toString() {
    return "[secret]";
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Secret that
        && MessageDigest.isEqual(text.getBytes(StandardCharsets.UTF_8), that.text.getBytes(StandardCharsets.UTF_8));
  }

  @Override
  public int hashCode() {
    return text.hashCode();
  }

  private void writeObject(ObjectOutputStream out) throws NotSerializableException {
    throw new NotSerializableException("a secret is not written down");
  }
}
