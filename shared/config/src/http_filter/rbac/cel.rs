//! Conditions in the Common Expression Language.
//!
//! The wire carries syntax trees. They are written back as text, which is then compiled here once to see that it is
//! sound, and once by the data plane. What refers to attributes that weir-proxy does not have is refused.

use std::fmt::Write;
use std::sync::LazyLock;

use cel::IdedExpr;
use cel::common::ast;
use prost::Message;
use proto::google::api::expr::v1alpha1::{self as pb, Expr};
use proto::xds::r#type::v3::CelExpression;
use regex::Regex;

use super::MAX_DEPTH;
use crate::invalid::Problems;

/// A checked expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cel(String);

/// Of an expression as text.
const MAX_LENGTH: usize = 4096;

/// Whoever walks an expression does so by recursion, and a chain such as `1+1+1` is as deep as it is long.
const MAX_CHAIN: usize = 100;

/// What expressions may refer to.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    (
        "request",
        &["path", "url_path", "host", "scheme", "method", "headers", "referer", "useragent", "id", "protocol", "query"],
    ),
    ("source", &["address", "port"]),
    ("destination", &["address", "port"]),
    (
        "connection",
        &[
            "id",
            "mtls",
            "requested_server_name",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "sha256_peer_certificate_digest",
        ],
    ),
];

const OPERATORS: &[(&str, &str)] = &[
    ("_&&_", "&&"),
    ("_||_", "||"),
    ("_==_", "=="),
    ("_!=_", "!="),
    ("_<_", "<"),
    ("_<=_", "<="),
    ("_>_", ">"),
    ("_>=_", ">="),
    ("_+_", "+"),
    ("_-_", "-"),
    ("_*_", "*"),
    ("_/_", "/"),
    ("_%_", "%"),
    ("@in", "in"),
    ("_in_", "in"),
];

const FUNCTIONS: &[&str] =
    &["startsWith", "endsWith", "contains", "matches", "size", "string", "int", "uint", "double"];

impl Cel {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it asks about one of the roots of attributes.
    pub(crate) fn refers_to(&self, root: &str) -> bool {
        cel::Program::compile(&self.0).is_ok_and(|program| program.references().has_variable(root))
    }

    /// Reads an expression written as text.
    pub fn parse(text: &str, p: &mut Problems) -> Option<Self> {
        match cel::Program::compile(text) {
            Ok(program) => {
                if let Err(reason) = can_be_evaluated(&program.expression().expr, 0) {
                    p.refuse(reason);
                    return None;
                }
                let references = program.references();
                for name in references.variables() {
                    if !ATTRIBUTES.iter().any(|(root, _)| *root == name) {
                        p.refuse(format!("{name:?} is not an attribute in weir-proxy"));
                        return None;
                    }
                }
                if let Some(unknown) = unknown_attribute(text) {
                    p.refuse(format!("{unknown} is not an attribute in weir-proxy"));
                    return None;
                }
                Some(Self(text.to_owned()))
            }
            Err(error) => {
                p.refuse(format!("not an expression: {}", error.to_string().lines().next().unwrap_or_default()));
                None
            }
        }
    }
}

/// On a worker's stack, and in a time that has to do with its length.
fn can_be_evaluated(expr: &ast::Expr, depth: usize) -> Result<(), String> {
    if depth > MAX_CHAIN {
        return Err(format!("nested more than {MAX_CHAIN} deep"));
    }
    let all = |parts: &mut dyn Iterator<Item = &IdedExpr>| -> Result<(), String> {
        for part in parts {
            can_be_evaluated(&part.expr, depth + 1)?;
        }
        Ok(())
    };
    match expr {
        ast::Expr::Call(call) => all(&mut call.target.as_deref().into_iter().chain(&call.args)),
        ast::Expr::Select(select) => all(&mut std::iter::once(&*select.operand)),
        ast::Expr::List(list) => all(&mut list.elements.iter()),
        ast::Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            ast::EntryExpr::MapEntry(entry) => all(&mut [&entry.key, &entry.value].into_iter()),
            ast::EntryExpr::StructField(field) => all(&mut std::iter::once(&field.value)),
        }),
        ast::Expr::Struct(_) => Err("messages are not implemented by weir-proxy".into()),
        ast::Expr::Comprehension(_) => Err("comprehensions are not implemented by weir-proxy".into()),
        ast::Expr::Unspecified | ast::Expr::Ident(_) | ast::Expr::Literal(_) => Ok(()),
    }
}

/// An attribute that does not exist would make the expression fail, and a policy that denies would then let pass. So
/// each must be named as `root.field`. (A text constant that looks like an unknown one is refused too.)
fn unknown_attribute(text: &str) -> Option<&str> {
    static ROOTS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\b(request|source|destination|connection)\b\s*(?:\.\s*(\w+))?").expect("a constant that is right")
    });
    ROOTS.captures_iter(text).find_map(|captures| {
        let whole = captures.get(0)?;
        let is_field = text[..whole.start()].ends_with('.');
        let root = ATTRIBUTES.iter().find(|(root, _)| *root == &captures[1])?;
        let is_known = captures.get(2).is_some_and(|field| root.1.contains(&field.as_str()));
        (!is_known && !is_field).then_some(whole.as_str())
    })
}

/// Reads the expression of a CelMatcher, in whichever of its five forms it is.
pub(super) fn decode_expression(proto: &CelExpression, p: &mut Problems) -> Option<Cel> {
    use proto::xds::r#type::v3::cel_expression::ExprSpecifier;
    // The messages of package cel.expr have the same fields and numbers as the older ones.
    let old = |bytes: Vec<u8>| pb::ParsedExpr::decode(&*bytes).ok().and_then(|parsed| parsed.expr);
    let expr = match (&proto.expr_specifier, &proto.cel_expr_parsed, &proto.cel_expr_checked) {
        (Some(ExprSpecifier::ParsedExpr(parsed)), ..) => parsed.expr.clone(),
        (Some(ExprSpecifier::CheckedExpr(checked)), ..) => checked.expr.clone(),
        (None, Some(parsed), _) => old(parsed.encode_to_vec()),
        (None, None, Some(checked)) => {
            pb::CheckedExpr::decode(&*checked.encode_to_vec()).ok().and_then(|checked| checked.expr)
        }
        (None, None, None) if proto.cel_expr_string.len() > MAX_LENGTH => {
            return p.refuse_at("cel_expr_string", format!("is longer than {MAX_LENGTH} bytes"));
        }
        (None, None, None) if !proto.cel_expr_string.is_empty() => {
            return p.at("cel_expr_string", |p| Cel::parse(&proto.cel_expr_string, p));
        }
        (None, None, None) => None,
    };
    match expr {
        Some(expr) => decode(&expr, p),
        None => {
            p.refuse("an expression is required");
            None
        }
    }
}

/// Reads an expression given as a syntax tree.
pub(super) fn decode(expr: &Expr, p: &mut Problems) -> Option<Cel> {
    let mut text = String::new();
    if let Err(reason) = write(expr, &mut text, 0) {
        p.refuse(reason);
        return None;
    }
    Cel::parse(&text, p)
}

fn write(expr: &Expr, out: &mut String, depth: usize) -> Result<(), String> {
    use pb::expr::ExprKind;
    if depth > MAX_DEPTH {
        return Err(format!("nested more than {MAX_DEPTH} deep"));
    }
    match expr.expr_kind.as_ref() {
        Some(ExprKind::ConstExpr(constant)) => write_constant(constant, out),
        Some(ExprKind::IdentExpr(ident)) => {
            write_name(&ident.name, out)?;
            Ok(())
        }
        Some(ExprKind::SelectExpr(select)) => write_select(select, out, depth),
        Some(ExprKind::CallExpr(call)) => write_call(call, out, depth),
        Some(ExprKind::ListExpr(list)) if list.optional_indices.is_empty() => {
            out.push('[');
            write_list(&list.elements, out, depth)?;
            out.push(']');
            Ok(())
        }
        Some(ExprKind::ListExpr(_)) => Err("optional list elements are not implemented by weir-proxy".into()),
        Some(ExprKind::StructExpr(_)) => Err("messages and maps are not implemented by weir-proxy".into()),
        Some(ExprKind::ComprehensionExpr(_)) => Err("comprehensions are not implemented by weir-proxy".into()),
        None => Err("an expression is required".into()),
    }
}

fn write_name(name: &str, out: &mut String) -> Result<(), String> {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !is_name {
        return Err(format!("{name:?} is not a name"));
    }
    out.push_str(name);
    Ok(())
}

fn write_list(list: &[Expr], out: &mut String, depth: usize) -> Result<(), String> {
    for (i, expr) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(expr, out, depth + 1)?;
    }
    Ok(())
}

fn write_select(select: &pb::expr::Select, out: &mut String, depth: usize) -> Result<(), String> {
    let Some(operand) = &select.operand else { return Err("a selection needs an operand".into()) };
    if select.test_only {
        out.push_str("has(");
    }
    write(operand, out, depth + 1)?;
    out.push('.');
    write_name(&select.field, out)?;
    if select.test_only {
        out.push(')');
    }
    Ok(())
}

fn write_call(call: &pb::expr::Call, out: &mut String, depth: usize) -> Result<(), String> {
    let function = call.function.as_str();
    match (call.target.as_deref(), function, call.args.as_slice()) {
        (None, "!_" | "-_", [one]) => {
            out.push('(');
            out.push_str(&function[..1]);
            write(one, out, depth + 1)?;
            out.push(')');
        }
        (None, "_?_:_", [condition, yes, no]) => {
            out.push('(');
            for (part, after) in [(condition, " ? "), (yes, " : "), (no, ")")] {
                write(part, out, depth + 1)?;
                out.push_str(after);
            }
        }
        (None, "_[_]", [list, index]) => {
            write(list, out, depth + 1)?;
            out.push('[');
            write(index, out, depth + 1)?;
            out.push(']');
        }
        (None, _, [left, right]) if OPERATORS.iter().any(|(name, _)| *name == function) => {
            let operator = OPERATORS.iter().find(|(name, _)| *name == function).map_or("", |(_, text)| text);
            out.push('(');
            write(left, out, depth + 1)?;
            // Writing to a String cannot fail.
            let _ = write!(out, " {operator} ");
            write(right, out, depth + 1)?;
            out.push(')');
        }
        (target, _, args) if FUNCTIONS.contains(&function) => {
            if let Some(target) = target {
                write(target, out, depth + 1)?;
                out.push('.');
            }
            out.push_str(function);
            out.push('(');
            write_list(args, out, depth)?;
            out.push(')');
        }
        _ => return Err(format!("the function {function:?} is not implemented by weir-proxy")),
    }
    Ok(())
}

fn write_constant(constant: &pb::Constant, out: &mut String) -> Result<(), String> {
    use pb::constant::ConstantKind as Kind;
    // Writing to a String cannot fail.
    let _ = match constant.constant_kind.as_ref() {
        Some(Kind::NullValue(_)) => write!(out, "null"),
        Some(Kind::BoolValue(value)) => write!(out, "{value}"),
        Some(Kind::Int64Value(value)) if *value < 0 => write!(out, "({value})"),
        Some(Kind::Int64Value(value)) => write!(out, "{value}"),
        Some(Kind::Uint64Value(value)) => write!(out, "{value}u"),
        Some(Kind::DoubleValue(value)) if value.is_finite() => write!(out, "({value:?})"),
        Some(Kind::StringValue(value)) => {
            out.push('"');
            for c in value.chars() {
                let _ = match c {
                    '"' | '\\' => write!(out, "\\{c}"),
                    ' '..='~' => write!(out, "{c}"),
                    c => write!(out, "\\U{:08x}", c as u32),
                };
            }
            write!(out, "\"")
        }
        _ => return Err("bytes, durations and times are not implemented by weir-proxy".into()),
    };
    Ok(())
}
